"""What users do meanwhile: requests, uploads, files dropped into LANDING, some of them twice, some of them garbage.

Who is not answered asks again, with the same Idempotency-Key. What was answered 202 is remembered.
"""

import asyncio
import gzip
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Any
from uuid import UUID

import aiohttp
import httpx
from miniopy_async.api import Minio
from miniopy_async.error import MinioException

KINDS = {
    "request": 0.36,
    "request without a key": 0.06,
    "upload": 0.22,
    "same content again": 0.10,
    "garbage": 0.04,
    "large garbage": 0.02,
    "truncated": 0.02,
    "dropped file": 0.18,
}
"""Shares of the sources."""
SAID_TWICE = 0.2
"""Share of the requests with a key that are sent again although they were answered."""
HEAD = """#separator \\x09
#unset_field\t-
#path\tconn
#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state
"""


@dataclass(slots=True)
class Source:
    """One thing that a user brings. `rows`: the records of its format, those that can't be read among them."""

    number: int
    kind: str
    key: str
    """Idempotency-Key, or the object's key in LANDING; none where empty."""
    rows: int = 0
    unparsable: int = 0
    content: bytes = b""
    """Empty for a request, whose rows are drawn by the seed `number`."""
    same_as: int | None = None
    """The source whose content it was drawn to have."""
    run_id: str = ""
    """What the 202 said; for a dropped file what its metadata say, if anything."""
    unanswered: int = 0
    """Attempts that may have been carried out without a 202."""

    @property
    def rejected(self) -> bool:
        return self.kind in ("garbage", "large garbage", "truncated")


def draw_sources(seed: int, count: int, first: int = 0) -> list[Source]:
    """`count` sources, the same for the same seed, numbered from `first` on."""
    sources = [_draw(Random(f"{seed} source {n}"), seed, n, first) for n in range(first, first + count)]
    for source in sources:
        if source.same_as is None:
            continue
        model = sources[source.same_as - first]
        if model.kind in ("upload", "dropped file", "same content again"):
            source.rows, source.unparsable, source.content = model.rows, model.unparsable, model.content
        else:  # that one is no file: a first one after all
            source.kind, source.rows, source.content = "upload", 50, zeek(source.number, 50, 0)
    return sources


def _draw(rng: Random, seed: int, number: int, first: int) -> Source:
    (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
    rows, key = rng.randint(20, 200), f"chaos-{seed}-{number}"
    match kind:
        case "request":
            return Source(number, kind, key, rows)
        case "request without a key":
            return Source(number, kind, "", rows)
        case "same content again" if number > first:
            return Source(number, kind, key, same_as=rng.randrange(first, number))
        case "garbage":
            return Source(number, kind, key, content=b"\xff\xd8\xff\xe0" + rng.randbytes(3000))
        case "large garbage":  # in parts: what a killed upload leaves of them must go
            return Source(number, kind, key, content=b"\xff\xd8\xff\xe0" + rng.randbytes(9 << 20))
        case "truncated":
            return Source(number, kind, key, content=gzip.compress(zeek(number, 200, 0), mtime=0)[:-400])
        case "dropped file":
            unparsable = rng.choice((0, 0, 2))
            run_id = str(UUID(int=rng.getrandbits(128), version=4)) if rng.random() < 0.5 else ""
            path = f"network_events/an old script's/{number} ñandú+1.log"
            return Source(
                number, kind, path, rows + unparsable, unparsable, zeek(number, rows, unparsable), run_id=run_id
            )
    unparsable = rng.choice((0, 0, 3))
    return Source(number, "upload", key, rows + unparsable, unparsable, zeek(number, rows, unparsable))


def zeek(number: int, rows: int, unparsable: int) -> bytes:
    """A Zeek conn.log that no other number gives."""
    start = 1_500_000_000 + number * 1000
    lines = [
        f"{start + n}.5\tC{number}x{n}\t10.0.0.{n % 7}\t4{n % 10_000:04d}\t10.1.0.9\t443\ttcp\t1.5\t{n}\t{n * 3}\tSF"
        for n in range(rows)
    ]
    lines += ["not-a-time\tC\t10.0.0.1\t1\t10.1.0.9\t443\ttcp\t1.5\t1\t3\tSF"] * unparsable
    return (HEAD + "\n".join(lines) + "\n").encode()


@dataclass
class Load:
    """Brings the sources, evenly over the time with a burst now and then."""

    sources: Sequence[Source]
    ingestors: Sequence[str]
    store: Minio
    landing: str
    """The bucket."""
    seed: int
    complaints: list[str] = field(default_factory=list)
    """Answers that no user should get."""
    answers: Counter[int] = field(default_factory=Counter)
    """By status; 0: none."""

    async def bring(self, seconds: float) -> None:
        """Returns once each source is taken on."""
        rng = Random(f"{self.seed} pace")
        pause = seconds / len(self.sources)
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(timeout=15, limits=limits) as client, asyncio.TaskGroup() as group:
            burst = 0
            for source in self.sources:
                group.create_task(self._bring(source, client))
                if not burst:
                    burst = rng.choice((1, 1, 1, 1, 20))
                    await asyncio.sleep(pause * burst)
                burst -= 1

    async def _bring(self, source: Source, client: httpx.AsyncClient) -> None:
        rng = Random(f"{self.seed} asks {source.number}")
        if source.kind == "dropped file":
            await self._drop(source, rng)
            return
        await self._ask_until_answered(source, client, rng)
        if source.key and rng.random() < SAID_TWICE:
            again = (self._ask(source, client, url) for url in self.ingestors)
            for run_id in await asyncio.gather(*again):
                if run_id not in (None, source.run_id):
                    self.complaints.append(f"{source.key} was answered {source.run_id}, and then {run_id}")

    async def _ask_until_answered(self, source: Source, client: httpx.AsyncClient, rng: Random) -> None:
        while not source.run_id:
            run_id = await self._ask(source, client, rng.choice(self.ingestors))
            if run_id is None:
                source.unanswered += 1
                await asyncio.sleep(rng.uniform(0.3, 1.5))
            else:
                source.run_id = run_id

    async def _ask(self, source: Source, client: httpx.AsyncClient, url: str) -> str | None:
        """The run that a 202 names, else None."""
        headers = {"Idempotency-Key": source.key} if source.key else {}
        try:
            answer = await self._send(source, client, url, headers)
        except httpx.HTTPError:
            self.answers[0] += 1
            return None
        self.answers[answer.status_code] += 1
        if answer.status_code == 202:
            return str(answer.json()["run_id"])
        if answer.status_code != 503:
            self.complaints.append(f"{source.kind} {source.number}: {answer.status_code} {answer.text[:200]}")
        return None

    def _send(
        self, source: Source, client: httpx.AsyncClient, url: str, headers: dict[str, str]
    ) -> Awaitable[httpx.Response]:
        if not source.content:
            drawn = {"kind": "synthetic", "rows": source.rows, "seed": source.number, "anomaly_rate": 0.05}
            return client.post(
                f"{url}/ingestions", json={"dataset": "network_events", "source": drawn}, headers=headers
            )
        name = {"garbage": "holiday.jpg", "large garbage": "film.mp4", "truncated": "conn.log.gz"}.get(
            source.kind, f"conn-{source.number}.log"
        )
        params = {"dataset": "network_events"} if source.kind == "truncated" else {}
        return client.put(f"{url}/ingestions/files/{name}", content=source.content, params=params, headers=headers)

    async def _drop(self, source: Source, rng: Random) -> None:
        """As any S3 client does it, which tries again where it got no answer."""
        metadata: Any = {"acequia-run-id": source.run_id} if source.run_id else None
        while True:
            try:
                async with asyncio.timeout(10):
                    await self.store.put_object(
                        self.landing, source.key, BytesIO(source.content), len(source.content), metadata=metadata
                    )
            except (MinioException, aiohttp.ClientError, TimeoutError, OSError, ValueError):
                source.unanswered += 1
                await asyncio.sleep(rng.uniform(0.3, 1.5))
            else:
                return
