"""The storm: what is done to the place while users go on, and how it is looked at afterwards."""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import aiohttp
import httpx

from chaos.comparison import Findings, Observed, Reader, compare
from chaos.load import Load, Source, draw_sources
from chaos.place import PREFIX, REPLICAS, Place

KINDS = {
    "service killed": 36,
    "service stopped": 8,
    "service frozen": 8,
    "server killed": 6,
    "server stopped": 6,
    "connections cut": 14,
    "cut in a message": 14,
    "connections stalled": 8,
}
"""Weights."""
OUTAGE_SECONDS = 1.0, 8.0
FREEZE_SECONDS = 5.0, 28.0
"""Longer than a plan's start may be silent (`ACEQUIA_PLAN_STALE_AFTER`) and than two heartbeats of the broker: then the
work is taken over, and two have it."""
STALL_SECONDS = 1.0, 8.0
MESSAGE_BYTES = 3000
"""A connection is cut somewhere within its next bytes, this many at most."""
READY_SECONDS = 240.0
SETTLE_SECONDS = 240.0
TELL_SECONDS = 20.0
PROOFS = (
    ("reconciler", "/verify?settled=true&grace=0"),
    ("auditor.2", "/audit/verify"),
    ("auditor", "/audit/compare"),
)
"""What Acequia itself says of how it ended."""
UPLOADS_SECONDS = 90
"""MinIO ends abandoned uploads after 60 s here."""


@dataclass
class Summary:
    seed: int
    faults: Counter[str]
    sources: Sequence[Source]
    answers: Counter[int]
    observed: Observed
    findings: Findings
    complaints: list[str]
    """What went wrong beside: answers, exits, things left behind, what Acequia's own proofs say."""
    proofs: dict[str, bool]
    seconds: dict[str, float]

    @property
    def objects(self) -> int:
        return sum(len(keys) for keys in self.observed.layers.values())

    @property
    def failures(self) -> list[str]:
        return [*self.findings.all, *self.complaints]

    def lines(self) -> list[str]:
        stored = {layer: len(keys) for layer, keys in self.observed.layers.items()}
        kinds = Counter(source.kind for source in self.sources)
        disturbed = sum(n for kind, n in self.faults.items() if not kind.startswith("notification"))
        return [
            f"seed                 {self.seed}",
            f"faults injected      {disturbed}, and {self.faults.total() - disturbed} notifications mangled",
            *(f"  {kind:30} {count:5}" for kind, count in sorted(self.faults.items())),
            f"accepted             {len(self.sources)}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()),
            f"answers              202: {self.answers[202]}, 503: {self.answers[503]}, none: {self.answers[0]}",
            f"objects stored       {self.objects}: " + ", ".join(f"{n} {layer}" for layer, n in stored.items()),
            f"outcomes             {sum(event['kind'] == 'outcome' for event in self.observed.events)}",
            f"lost                 {len(self.findings.lost)}",
            f"duplicated artifacts {len(self.findings.doubled_artifacts)}",
            f"duplicated outcomes  {len(self.findings.doubled_outcomes)}",
            f"otherwise wrong      {len(self.findings.wrong) + len(self.complaints)}",
            "own proofs           " + ", ".join(f"{p}: {'ok' if ok else 'NOT OK'}" for p, ok in self.proofs.items()),
            "seconds              " + ", ".join(f"{name}: {took:.0f}" for name, took in self.seconds.items()),
        ]


@dataclass
class Storm:
    place: Place
    seed: int
    say: Callable[[str], None]
    """Told how it goes, a line now and then."""
    faults: Counter[str] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    proofs: dict[str, bool] = field(default_factory=dict)
    _busy: set[str] = field(default_factory=set)
    """Replicas and servers that something is being done to."""
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, seconds: float, sources: int, pause: float) -> Summary:
        """`pause`: seconds between two faults, on average."""
        took: dict[str, float] = {}
        began = time.monotonic()

        def lap(name: str) -> None:
            nonlocal began
            took[name] = time.monotonic() - began
            began = time.monotonic()

        place, fleet = self.place, self.place.fleet
        self.say(f"seed {self.seed}: starting {len(REPLICAS)} processes")
        place.mangler.start()
        for name in REPLICAS:
            place.start_replica(name)
        for name in REPLICAS:
            await asyncio.to_thread(fleet.wait_ready, name, READY_SECONDS)
        lap("start")
        async with aiohttp.ClientSession() as session:
            load = Load(
                draw_sources(self.seed, sources),
                place.ingestors,
                place.minio(session, direct=False),
                f"{PREFIX}-landing",
                self.seed,
                self.complaints,
            )
            watching = asyncio.create_task(self._watch())
            telling = asyncio.create_task(self._tell(load))
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.bring(seconds))
                    group.create_task(self._blow(seconds, pause))
                place.mangler.gentle = True
                lap("storm")
                telling.cancel()
                reader = Reader(place.minio(session, direct=True), PREFIX, place.database, place.lake)
                for name in REPLICAS:
                    await asyncio.to_thread(fleet.wait_ready, name, READY_SECONDS)
                observed, findings = await self._settled(reader, load.sources)
            finally:
                for task in (telling, watching, *self._under_way):
                    task.cancel()
                    await asyncio.wait({task})
            lap("settle")
            await self._look_around()
            lap("look")
        faults = self.faults + place.mangler.faults
        return Summary(
            self.seed, faults, load.sources, load.answers, observed, findings, self.complaints, self.proofs, took
        )

    # faults

    async def _blow(self, seconds: float, pause: float) -> None:
        rng = Random(f"{self.seed} storm")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(rng.uniform(0.4, 1.6) * pause)
            (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
            fault = self._fault(kind, rng)
            if fault is not None:
                task = asyncio.create_task(fault)
                self._under_way.add(task)
                task.add_done_callback(self._done)
        await asyncio.gather(*self._under_way)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.complaints.append(f"the suite itself: {error!r}")

    def _fault(self, kind: str, rng: Random) -> Coroutine[Any, Any, None] | None:
        """What is to be done; None where whom it meets has enough already."""
        replica, server = rng.choice(REPLICAS), rng.choice(sorted(self.place.proxies))
        proxy = self.place.proxies[server]
        away, gap, stall = rng.uniform(*OUTAGE_SECONDS), rng.uniform(0, 3), rng.uniform(*STALL_SECONDS)
        frozen = rng.uniform(*FREEZE_SECONDS)
        match kind:
            case "service killed" | "service stopped":
                act = self._kill_replica if kind == "service killed" else self._stop_replica
                return self._once(kind, replica, lambda: act(replica, gap))
            case "service frozen":
                return self._once(kind, replica, lambda: self._freeze(replica, frozen))
            case "server killed" | "server stopped":
                if any(name in self._busy for name in self.place.proxies):
                    return None
                return self._once(
                    f"{server} {kind.split()[1]}", server, lambda: self._outage(server, kind == "server killed", away)
                )
            case "connections cut" | "cut in a message":
                cut = proxy.cut_all() if kind == "connections cut" else proxy.cut_within(MESSAGE_BYTES)
                self.faults[f"{server} {kind}"] += cut > 0
                return None
        return self._once(f"{server} {kind}", f"{server}'s proxy", lambda: proxy.stall(stall))

    def _once(self, kind: str, whom: str, act: Callable[[], Awaitable[None]]) -> Coroutine[Any, Any, None] | None:
        if whom in self._busy:
            return None
        self._busy.add(whom)
        self.faults[kind] += 1

        async def acting() -> None:
            try:
                await act()
            finally:
                self._busy.discard(whom)

        return acting()

    async def _kill_replica(self, name: str, away: float) -> None:
        await asyncio.to_thread(self.place.fleet.kill, name)
        await asyncio.sleep(away)
        self.place.start_replica(name)

    async def _freeze(self, name: str, seconds: float) -> None:
        process = self.place.fleet.processes[name]
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def _stop_replica(self, name: str, away: float) -> None:
        # before its first line runs, SIGTERM ends it as it ends any process
        await asyncio.to_thread(self.place.fleet.wait_alive, name, READY_SECONDS)
        await self._stop(name)
        await asyncio.sleep(away)
        self.place.start_replica(name)

    async def _stop(self, name: str) -> None:
        code = await asyncio.to_thread(self.place.fleet.stop, name)
        if code != 0:
            self.complaints.append(f"{name} ended with {code} on SIGTERM: {self.place.fleet.log(name)}")

    async def _outage(self, server: str, kill: bool, away: float) -> None:
        await asyncio.to_thread(self.place.stop_server, server, kill=kill)
        await asyncio.sleep(away)
        await asyncio.to_thread(self.place.start_server, server)

    async def _watch(self) -> None:
        """No service may end by itself, whatever happens around it."""
        while True:
            for name, process in list(self.place.fleet.processes.items()):
                if name not in self._busy and (code := process.poll()) is not None:
                    self.complaints.append(f"{name} ended by itself with {code}: {self.place.fleet.log(name)}")
                    self.place.start_replica(name)
            await asyncio.sleep(0.5)

    async def _tell(self, load: Load) -> None:
        while True:
            await asyncio.sleep(TELL_SECONDS)
            self.say(f"{load.answers[202]} times 202, {self.faults.total()} faults")

    # afterwards

    async def _settled(self, reader: Reader, sources: Sequence[Source]) -> tuple[Observed, Findings]:
        """As it is once nothing is missing and no queue holds a message, or after long enough."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            observed = await reader.observe()
            findings = compare(sources, observed, PREFIX)
            held = {} if findings.lost else await asyncio.to_thread(self.place.queues)
            if not findings.lost and not held:
                return observed, findings
            waits_for = (findings.lost or sorted(held))[0]
            self.say(f"settling: {len(findings.lost)} are missing, {len(held)} queues hold messages: {waits_for}")
            if time.monotonic() > end:
                self.complaints += [f"{queue} holds {messages} messages" for queue, messages in held.items()]
                return observed, findings
            await asyncio.sleep(2)

    async def _look_around(self) -> None:
        """What Acequia's own proofs say; then everything ends, and nothing is left behind."""
        fleet = self.place.fleet
        async with httpx.AsyncClient(timeout=120) as client:
            for service, path in PROOFS:
                answer = await client.get(fleet.url(service) + path)
                result = _result(answer.text)
                self.proofs[path] = result.get("ok") is True
                if not self.proofs[path]:
                    self.complaints.append(f"{path} says {json.dumps(result)[:2000]}")
        await asyncio.gather(*(self._stop(name) for name in REPLICAS))
        await self.place.mangler.close()
        self.complaints += [f"left behind: {name}" for name in self.place.temporary_files()]
        for _ in range(UPLOADS_SECONDS):
            if not self.place.open_uploads():
                break
            await asyncio.sleep(1)
        self.complaints += [f"left behind: the upload {name}" for name in self.place.open_uploads()]
        for queue, messages in (await asyncio.to_thread(self.place.queues)).items():
            self.complaints.append(f"{queue} holds {messages} messages after the end")


def _result(text: str) -> dict[str, Any]:
    """The last line of an NDJSON answer: its result, or its problem."""
    last: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    found: dict[str, Any] = last.get("result") or last
    return found
