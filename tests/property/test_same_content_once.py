"""The ingestor under random schedules: each file and each command ends once, and the same content becomes RAW once."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from acequia.acceptance import COMMAND
from acequia.events import AuditRecord, IngestionCommand, Kind, SourceRequest, Status
from acequia.layers import NAMESPACE, Layer, command_key, done_key, landing_done_id
from acequia.ports import Message, ObjectInfo
from acequia.runner import JSON, Workshop
from acequia.topology import dead_queue
from acequia_ingestor.formats import load_formats
from acequia_ingestor.ingest import Ingestor
from acequia_ingestor.settings import IngestorSettings

from .world import BUCKETS, Faults, World, notification, once, put, schedule, share

QUEUE = "acequia.ingestor"
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)
FORMATS = load_formats()
ROWS_PER_PART = 2
OUTCOMES = (Status.SUCCESS, Status.REJECTED, Status.SAME_CONTENT)


def file_of(content: int) -> bytes:
    """A canonical CSV file of three rows: two parts of RAW."""
    lines = ["timestamp,src_ip,dst_ip,bytes,duration,protocol"]
    lines += [f"2025-12-20T12:00:0{n}Z,10.0.0.1,10.0.0.2,{content}{n},1.5,tcp" for n in range(3)]
    return ("\n".join(lines) + "\n").encode()


GARBAGE = b"timestamp,src_ip\n\x00\x01\x02"


def build(workshop: Workshop) -> Ingestor:
    return Ingestor(workshop, IngestorSettings(rows_per_part=ROWS_PER_PART), FORMATS)


class Story:
    """Files dropped, some of them twice under two names or replaced while they wait, and commands."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.files: list[tuple[bytes, ObjectInfo]] = []
        self.replaced: set[str] = set()
        self.commands: dict[UUID, IngestionCommand] = {}

    async def begin(self) -> None:
        world, rng = self.world, self.world.rng
        for _ in range(2):
            world.start(build)
        for number in range(rng.randint(1, 3)):
            key = f"network_events/file-{number}.csv"
            await self.drop(key, rng.choice((file_of(1), file_of(1), file_of(2), GARBAGE)))
            if rng.random() < 0.2:
                world.to_come.append(self.replacement(key))
        for number in range(rng.choice((0, 0, 1))):
            await self.order(number)

    async def drop(self, key: str, data: bytes) -> None:
        info = await put(self.world, Layer.LANDING, key, data)
        self.files.append((data, info))
        for _ in range(self.world.rng.choice((1, 1, 2))):
            self.world.post(notification(info))

    def replacement(self, key: str) -> Callable[[], Awaitable[None]]:
        async def replace() -> None:
            self.world.note(f"{key} is replaced")
            self.replaced.add(key)
            await self.drop(key, file_of(3))

        return replace

    async def order(self, number: int) -> None:
        run_id = uuid5(NAMESPACE, f"command {number}")
        command = IngestionCommand(
            run_id=run_id,
            dataset="network_events",
            source=SourceRequest.model_validate({"kind": "synthetic", "rows": 3}),
            accepted_at=AT,
            fingerprint="x",
            rows_per_part=ROWS_PER_PART,
        )
        body = command.model_dump_json().encode()
        self.commands[run_id] = command
        await self.world.store.put(Layer.LEDGER, command_key(run_id), body, metadata={}, content_type=JSON)
        for _ in range(self.world.rng.choice((1, 2))):
            self.world.post(Message(body, type=COMMAND, message_id=str(run_id)))

    async def tell_again(self) -> None:
        for _, info in self.files:
            self.world.post(notification(info))
        for run_id, command in self.commands.items():
            self.world.post(Message(command.model_dump_json().encode(), type=COMMAND, message_id=str(run_id)))

    async def ended(self) -> bool:
        return True

    async def check(self) -> None:
        world = self.world
        records = once(world.records())
        outcomes = [r for r in records.values() if r.kind is Kind.OUTCOME]
        assert world.left_in(dead_queue("ingestor")) == 0
        assert await world.keys(Layer.LEDGER, "commands/") == [], "a command that is done is still open"
        expected: dict[UUID, Any] = {}
        by_content: dict[bytes, list[AuditRecord]] = {}
        for data, info in self.files:
            done_id = landing_done_id(BUCKETS.of(Layer.LANDING), info.key, info.etag)
            mine = [r for r in outcomes if any((i.uri, i.etag) == (info.uri, info.etag) for i in r.inputs)]
            if not mine:  # replaced before it was read
                assert info.key in self.replaced
                assert any(r.status is Status.SUPERSEDED and r.inputs[0].uri == info.uri for r in records.values())
                continue
            (outcome,) = mine
            expected[done_id] = outcome
            by_content.setdefault(data, []).append(outcome)
        for run_id in self.commands:
            (expected[run_id],) = [r for r in outcomes if r.run_id == run_id]
        assert len(outcomes) == len(expected), "an outcome too many"
        assert set(await world.keys(Layer.LEDGER, "done/")) == {done_key(i) for i in expected}
        for done_id, outcome in expected.items():
            assert (await world.document(Layer.LEDGER, done_key(done_id)))["status"] == outcome.status
            if done_id not in self.commands:  # of a command, the API says so before it answers
                assert any(r.kind is Kind.ACCEPTED and r.run_id == outcome.run_id for r in records.values())
        parts: Counter[str] = Counter()
        for data, told in by_content.items():
            statuses = Counter(r.status for r in told)
            if data == GARBAGE:
                assert set(statuses) <= {Status.REJECTED}
                continue
            assert statuses[Status.SUCCESS] == 1, f"the same content: {statuses}"
            assert statuses[Status.SAME_CONTENT] == len(told) - 1
        for outcome in expected.values():
            if outcome.status is Status.SUCCESS:
                assert (outcome.rows_in, outcome.rows_out) == (3, 3)
                parts.update(o.uri for o in outcome.outputs)
        begun = await self.begun_of_replaced(set(expected))
        raw = {k for k in await world.keys(Layer.RAW) if not any(f"_{digest}_" in k for digest in begun)}
        assert {f"s3://test-raw/{key}" for key in raw} == set(parts), "RAW holds what no outcome tells of"
        assert set(parts.values()) <= {1}

    async def begun_of_replaced(self, done: set[UUID]) -> set[str]:
        """Ids of claims that nobody can finish until the same content comes again: who held them was killed, and the
        file was replaced before its message came again. Parts of them may stand."""
        found = set()
        for key in await self.world.keys(Layer.LEDGER, "claims/"):
            claim = await self.world.document(Layer.LEDGER, key)
            if UUID(claim["done_id"]) not in done:
                assert claim["subject"].removeprefix("s3://test-landing/") in self.replaced, "a claim without an end"
                found.add(claim["digest"][:16])
        return found

    async def seen(self) -> tuple[object, ...]:
        world = self.world
        raw = {key: await world.data(Layer.RAW, key) for key in await world.keys(Layer.RAW)}
        outcomes = {i: r for i, r in once(world.records()).items() if r.kind is not Kind.NOTE}
        return raw, outcomes


@share(15)
def test_each_file_and_command_ends_once_and_the_same_content_becomes_raw_once(
    folder: Path, seeds: Sequence[int]
) -> None:
    async def story(world: World) -> None:
        rng = world.rng
        if rng.random() < 0.8:
            world.faults = Faults(
                share=rng.choice((0.05, 0.15)), kills=rng.randint(0, 6), failures=rng.randint(0, 3), lost_answers=2
            )
        tale = Story(world)
        await tale.begin()
        await world.play(tale.ended)
        await tale.check()
        before = await tale.seen()
        await world.a_week_later()
        await tale.tell_again()
        await world.play(tale.ended)
        await tale.check()
        assert await tale.seen() == before

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)
