"""One-to-one stages under random schedules: each object ends once, in one artifact or with one reason."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from acequia.events import AuditRecord, Kind, Status
from acequia.layers import Layer, Stem, data_key, manifest_key
from acequia.runner import HEADER_STALE, StageRunner, Workshop, newest_variant
from acequia.stage import Stage
from acequia.topology import dead_queue
from acequia.work import Beside, Outcome, RejectedWhole, Work

from .world import Build, Faults, World, notification, once, put, schedule, share

QUEUE = "acequia.transformer"
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)
KINDS = ("good", "good", "good", "good", "good", "rejected", "rejected", "sick", "bug", "gone")
"""What may be the matter with an object: sick ones are processed at the third try, a bug never ends."""


def stem(number: int) -> Stem:
    return Stem("network_events", AT, f"{number:016x}", 1)


def made_of(data: bytes, variant: str) -> bytes:
    return variant.encode() + b" of " + data


class Stages:
    """Stages that do little, and remember how often they were asked."""

    def __init__(self) -> None:
        self.asked: Counter[bytes] = Counter()

    def __call__(self, version: str) -> Stage:
        return Stage("transformer", version, Layer.RAW, Layer.SILVER, self.process)

    def process(self, work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        data = inputs[0].read_bytes()
        self.asked[data] += 1
        if data.startswith(b"bug") or (data.startswith(b"sick") and self.asked[data] <= 2):
            raise RuntimeError("a bug")
        rows = out / "rejected.parquet"
        rows.write_bytes(b"rejected rows of " + data)
        beside = [Beside(Layer.QUARANTINE, f"transformer/{work.stem}.{work.variant}.rows.parquet", rows)]
        if data.startswith(b"rejected"):
            raise RejectedWhole("no_rows", "none survived", rows_in=3, rejected={"bad_ip": 3}, beside=beside)
        target = out / "rows.parquet"
        target.write_bytes(made_of(data, work.variant))
        return Outcome(output=target, beside=beside, rows_in=3, rows_out=2, rejected={"bad_ip": 1})


class Story:
    """Some objects, each of them told of once or more, and two replicas; perhaps an upgrade in the middle."""

    def __init__(self, world: World, *, upgrade: bool = False) -> None:
        self.world = world
        self.stages = Stages()
        self.upgrade = upgrade
        self.objects: dict[int, tuple[str, bytes]] = {}

    def build(self, version: str) -> Build:
        def make(workshop: Workshop) -> StageRunner:
            return StageRunner(self.stages(version), workshop)

        return make

    async def begin(self, replicas: int = 2, concurrency: int | None = None) -> None:
        world, rng = self.world, self.world.rng
        for _ in range(replicas):
            world.start(self.build("1"), concurrency)
        for number in range(rng.randint(1, 4)):
            kind = rng.choice(KINDS)
            data = f"{kind} {number}".encode()
            self.objects[number] = (kind, data)
            info = await put(world, Layer.RAW, data_key(stem(number)), data, acequia_rows="3")
            for _ in range(rng.choice((1, 1, 2, 3))):
                world.post(notification(info))
            if kind == "gone":
                world.to_come.append(self.removal(info.key))
        if self.upgrade:
            world.to_come.append(self.new_version)

    def removal(self, key: str) -> Callable[[], Awaitable[None]]:
        async def remove() -> None:
            await self.world.store.remove(Layer.RAW, key)
            self.world.note(f"{key} is removed")

        return remove

    async def new_version(self) -> None:
        """One replica after the other comes back as version 2."""
        for replica in list(self.world.replicas):
            await self.world.replace(replica, self.build("2"))

    async def ended(self) -> bool:
        return True

    async def tell_again(self, **headers: str) -> None:
        """Every event once more."""
        for number, (kind, _) in self.objects.items():
            if kind != "gone":
                info = await self.world.store.head(Layer.RAW, data_key(stem(number)))
                assert info is not None
                for _ in range(self.world.rng.choice((1, 2))):
                    self.world.post(notification(info, **headers))

    async def outcome(self) -> tuple[dict[str, bytes], set[str], dict[UUID, AuditRecord]]:
        """What there is to see: keys with their bytes, and the audit's outcomes."""
        world = self.world
        silver = {key: await world.data(Layer.SILVER, key) for key in await world.keys(Layer.SILVER)}
        manifests = {k for k in await world.keys(Layer.QUARANTINE) if k.endswith(".rejected.json")}
        outcomes = {i: r for i, r in once(world.records()).items() if r.kind is Kind.OUTCOME}
        return silver, manifests, outcomes

    async def check(self, variants: Sequence[str], *, upgraded: bool) -> None:
        """Against what is expected. `upgraded`: while the first events came, so that both variants may stand."""
        world = self.world
        records = once(world.records())
        outcomes = [r for r in records.values() if r.kind is Kind.OUTCOME]
        silver, quarantine = await world.keys(Layer.SILVER), await world.keys(Layer.QUARANTINE)
        dead = Counter(body for _, body in world.bodies(dead_queue("transformer")))
        expected_keys: set[str] = set()
        for number, (kind, data) in self.objects.items():
            mine = [r for r in outcomes if r.stem == str(stem(number))]
            notes = [r.status for r in records.values() if r.kind is Kind.NOTE and r.stem == str(stem(number))]
            artifacts = {v: data_key(stem(number), v) for v in variants if data_key(stem(number), v) in silver}
            manifests = [v for v in variants if manifest_key("transformer", stem(number), v) in quarantine]
            died = [body for body in dead if str(stem(number)).encode() in body]
            expected_keys |= set(artifacts.values())
            for variant, key in artifacts.items():
                assert await world.data(Layer.SILVER, key) == made_of(data, variant)
            assert len(mine) == len(artifacts) + len(manifests), f"{kind}: one outcome per artifact"
            if kind in ("good", "sick"):
                assert len(artifacts) == 1 or (upgraded and len(artifacts) == 2), f"{kind}: {sorted(artifacts)}"
                assert (manifests, died) == ([], [])
                assert {r.status for r in mine} == {Status.SUCCESS}
            elif kind == "rejected":
                assert (len(artifacts), died) == (0, [])
                assert len(manifests) == 1 or (upgraded and len(manifests) == 2)
                assert {r.status for r in mine} == {Status.REJECTED}
            elif kind == "bug":
                assert (artifacts, manifests) == ({}, [])
                assert died, "neither done nor dead"
                assert Status.FAILED in notes
            else:
                assert died == []
                assert artifacts or Status.GONE in notes
        assert set(silver) == expected_keys


def variant(version: str) -> str:
    return Stages()(version).variant


def dice(world: World) -> Faults:
    """Some schedules are calm, most are not."""
    rng = world.rng
    if rng.random() < 0.2:
        return Faults()
    return Faults(share=rng.choice((0.05, 0.15)), kills=rng.randint(0, 6), failures=rng.randint(0, 3), lost_answers=2)


@share(25)
def test_each_object_ends_once_whatever_is_killed_doubled_delayed_or_told_again(
    folder: Path, seeds: Sequence[int]
) -> None:
    async def story(world: World) -> None:
        world.faults = dice(world)
        tale = Story(world)
        await tale.begin()
        await world.play(tale.ended)
        await tale.check([variant("1")], upgraded=False)
        before = await tale.outcome()
        await world.a_week_later()
        await tale.tell_again()
        await world.play(tale.ended)
        await tale.check([variant("1")], upgraded=False)
        assert await tale.outcome() == before

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)


@share(5)
def test_undisturbed_one_replica_with_one_hand_works_on_nothing_twice(folder: Path, seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        tale = Story(world)
        await tale.begin(replicas=1, concurrency=1)
        await world.play(tale.ended)
        for kind, data in tale.objects.values():
            wanted = {"good": 1, "rejected": 1, "sick": 3}.get(kind)
            assert wanted is None or tale.stages.asked[data] == wanted, f"{kind}: {tale.stages.asked[data]} times"

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)


@share(10)
def test_an_upgrade_leaves_the_past_alone_until_stale_is_asked_for(folder: Path, seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        world.faults = dice(world)
        tale = Story(world)
        await tale.begin()
        await world.play(tale.ended)
        silver, manifests, outcomes = await tale.outcome()

        await tale.new_version()
        await tale.tell_again()
        await world.play(tale.ended)
        assert await tale.outcome() == (silver, manifests, outcomes), "the past was not left alone"

        await tale.tell_again(**{HEADER_STALE: "1"})
        await world.play(tale.ended)
        both = [variant("1"), variant("2")]
        known = (await world.document(Layer.LEDGER, "stages/transformer.json"))["variants"]
        assert known == both
        after, manifests_after, outcomes_after = await tale.outcome()
        assert silver.items() <= after.items(), "what stood was changed"
        assert outcomes.items() <= outcomes_after.items()
        for number, (kind, data) in tale.objects.items():
            standing = [v for v in both if data_key(stem(number), v) in after]
            refused = [v for v in both if manifest_key("transformer", stem(number), v) in manifests_after]
            if kind in ("good", "sick"):
                assert (standing, refused) == (both, [])
                newest = newest_variant(known, standing)
                assert after[data_key(stem(number), newest)] == made_of(data, variant("2"))
            elif kind == "rejected":
                assert (standing, refused) == ([], both)

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)


@share(10)
def test_an_upgrade_in_the_middle_of_everything_loses_and_doubles_nothing(folder: Path, seeds: Sequence[int]) -> None:
    """Where both versions have a doubled message in hand at once, each may make its own: one beside the other."""

    async def story(world: World) -> None:
        world.faults = dice(world)
        tale = Story(world, upgrade=True)
        await tale.begin()
        await world.play(tale.ended)
        await tale.check([variant("1"), variant("2")], upgraded=True)
        before = await tale.outcome()
        await world.a_week_later()
        await tale.tell_again()
        await world.play(tale.ended)
        assert await tale.outcome() == before

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)
