"""Many-to-one stages under random schedules: each object is in one plan, and each plan comes to one end."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from acequia.batches import MOST_FAILURES, BatchRunner, Plan
from acequia.events import Kind, Status
from acequia.layers import Layer, Stem, data_key, plan_key, plan_prefix
from acequia.ports import Message, ObjectInfo
from acequia.runner import HEADER_STALE, Workshop
from acequia.stage import BatchStage, Candidate
from acequia.topology import dead_queue
from acequia.work import Beside, Outcome, RejectedWhole, Work

from .world import Build, Faults, World, notification, once, put, schedule, share

QUEUE = "acequia.trainer"
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)


def stem(number: int) -> Stem:
    return Stem("network_events", AT, f"{number:016x}", 1)


def nothing_more(inputs: Sequence[Candidate], window: Sequence[Candidate]) -> Mapping[str, Any]:
    return {}


class Stages:
    """A trainer that writes down what it was given, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, version: str) -> BatchStage:
        return BatchStage(
            "trainer", version, Layer.SILVER, Layer.MODELS, self.process, "model.json", nothing_more, gather_quiet=0
        )

    def process(self, work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        self.asked[str(work.stem)] += 1
        data = [path.read_bytes() for path in inputs]
        if any(d.startswith(b"bug") for d in data):
            raise RuntimeError("a bug")
        if any(d.startswith(b"sick") for d in data) and self.asked[str(work.stem)] <= 2:
            raise RuntimeError("not yet")
        if all(d.startswith(b"rejected") for d in data):
            raise RejectedWhole("too_few_rows", "nothing to learn from")
        model = out / "model"
        model.write_bytes(b"|".join(data))
        key = f"{work.stem.folder}/{work.stem}.{work.variant}/model.bin"
        return Outcome(
            document={"trained_on": [i.key for i in work.inputs]},
            beside=[Beside(Layer.MODELS, key, model)],
            rows_in=len(inputs),
        )


class Story:
    """Some objects, each of them told of once or more, and two trainers."""

    def __init__(self, world: World, kinds: Sequence[str]) -> None:
        self.world = world
        self.kinds = kinds
        self.stages = Stages()
        self.objects: dict[int, tuple[str, ObjectInfo]] = {}
        self.stale = 0

    def build(self, version: str) -> Build:
        def make(workshop: Workshop) -> BatchRunner:
            return BatchRunner(self.stages(version), workshop, poll=5.0)

        return make

    async def begin(self, version: str = "1") -> None:
        world, rng = self.world, self.world.rng
        for _ in range(2):
            world.start(self.build(version))
        for number in range(rng.randint(1, 5)):
            kind = rng.choice(self.kinds)
            info = await put(
                world, Layer.SILVER, data_key(stem(number), "v1-000000"), f"{kind} {number}".encode(), acequia_rows="3"
            )
            self.objects[number] = (kind, info)
            for _ in range(rng.choice((1, 1, 2, 3))):
                world.post(self.event(info))
            if kind == "gone":
                world.to_come.append(self.removal(info.key))

    def event(self, info: ObjectInfo, **headers: str) -> Message:
        """Sometimes without metadata, as a reconciler may send it."""
        return notification(info, {} if self.world.rng.random() < 0.2 else None, **headers)

    def removal(self, key: str) -> Callable[[], Awaitable[None]]:
        async def remove() -> None:
            await self.world.store.remove(Layer.SILVER, key)
            self.world.note(f"{key} is removed")

        return remove

    async def tell_again(self, **headers: str) -> None:
        for kind, info in self.objects.values():
            if kind != "gone":
                for _ in range(self.world.rng.choice((1, 2))):
                    self.world.post(self.event(info, **headers))
                    self.stale += HEADER_STALE in headers

    async def plans(self) -> list[Plan]:
        keys = await self.world.keys(Layer.LEDGER, plan_prefix("trainer", "network_events"))
        return [Plan.parse(await self.world.data(Layer.LEDGER, k)) for k in keys if ".start-" not in k]

    async def ends(self, plan: Plan) -> list[str]:
        """What ended the plan."""
        models = [k for k in await self.world.keys(Layer.MODELS, str(plan.stem.folder)) if k.endswith("/model.json")]
        manifests = await self.world.keys(Layer.QUARANTINE, "trainer/")
        found = [k for k in (*models, *manifests) if f"/{plan.stem}." in k]
        name = plan_key("trainer", plan.dataset, plan.number)
        dead = {f"dead {plan.number}" for _, body in self.world.bodies(dead_queue("trainer")) if self.is_of(body, name)}
        return found + sorted(dead)

    @staticmethod
    def is_of(body: bytes, name: str) -> bool:
        return f'"number": {int(name[-11:-5])},'.encode() in body

    async def ended(self) -> bool:
        """Every plan has an end, and the audit was told of it."""
        told = {r.stem for r in self.world.records() if r.kind is Kind.OUTCOME}
        for plan in await self.plans():
            ends = await self.ends(plan)
            if not ends or (str(plan.stem) not in told and not ends[0].startswith("dead")):
                return False
        return True

    async def check(self) -> None:
        world = self.world
        plans = await self.plans()
        assert [p.number for p in plans] == list(range(1, len(plans) + 1)), "a number was left out"
        covered = Counter(c.stem for plan in plans for c in plan.inputs)
        for number, (kind, _) in self.objects.items():
            if kind != "gone" or str(stem(number)) in covered:
                assert covered[str(stem(number))] == 1, f"{kind} {number} is in {covered[str(stem(number))]} plans"
        records = once(world.records())
        for plan in plans:
            (end,) = await self.ends(plan)
            outcomes = [r for r in records.values() if r.kind is Kind.OUTCOME and r.stem == str(plan.stem)]
            told = [r for r in records.values() if r.status is Status.PLANNED and r.stem == str(plan.stem)]
            (planned,) = told
            assert {i.uri for i in planned.inputs} == {f"s3://test-silver/{c.key}" for c in plan.inputs}
            if end.startswith("dead"):
                assert outcomes == []
                assert self.stages.asked[str(plan.stem)] >= MOST_FAILURES
                continue
            (outcome,) = outcomes
            if end.endswith("/model.json"):
                assert outcome.status is Status.SUCCESS
                read = (await world.document(Layer.MODELS, end))["trained_on"]
                assert set(read) <= {c.key for c in plan.inputs}
                missing = {c.key for c in plan.inputs} - set(read)
                assert all(kind == "gone" for kind, info in self.objects.values() if info.key in missing)
                data = [b"%s %d" % (k.encode(), n) for n, (k, i) in self.objects.items() if i.key in read]
                model = await world.data(Layer.MODELS, end.replace("/model.json", "/model.bin"))
                assert sorted(model.split(b"|")) == sorted(data)
            else:
                assert outcome.status is Status.REJECTED

    async def seen(self) -> tuple[object, ...]:
        """What there is to see."""
        world = self.world
        ended = {plan.number: await self.ends(plan) for plan in await self.plans()}
        models = {key: await world.data(Layer.MODELS, key) for key in await world.keys(Layer.MODELS)}
        outcomes = {i: r for i, r in once(world.records()).items() if r.kind is Kind.OUTCOME}
        return ended, models, outcomes


def dice(world: World) -> Faults:
    rng = world.rng
    if rng.random() < 0.2:
        return Faults()
    return Faults(
        share=rng.choice((0.05, 0.15)),
        kills=rng.randint(0, 6),
        failures=rng.randint(0, 3),
        lost_answers=2,
        impatience=rng.choice((0.01, 0.1)),
    )


@share(20)
def test_each_object_is_in_one_plan_and_each_plan_ends_once_whatever_happens(
    folder: Path, seeds: Sequence[int]
) -> None:
    async def story(world: World) -> None:
        world.faults = dice(world)
        tale = Story(world, ("good", "good", "good", "rejected", "sick", "gone"))
        await tale.begin()
        await world.play(tale.ended)
        await tale.check()
        before = await tale.seen()
        await world.a_week_later()
        await tale.tell_again()
        await world.play(tale.ended)
        assert await tale.seen() == before, "what was told again a week later was worked on again"

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)


@share(4)
def test_a_plan_that_always_fails_ends_dead_and_the_others_are_worked_off(folder: Path, seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        world.faults = dice(world)
        tale = Story(world, ("good", "bug"))
        await tale.begin()
        await world.play(tale.ended)
        await tale.check()

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)


@share(3)
def test_undisturbed_each_plan_is_worked_off_once_by_two_trainers(folder: Path, seeds: Sequence[int]) -> None:
    async def story(world: World) -> None:
        world.faults = Faults(impatience=0)
        tale = Story(world, ("good",))
        await tale.begin()
        await world.play(tale.ended)
        await tale.check()
        assert set(tale.stages.asked.values()) == {1}

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)


@share(8)
def test_stale_asks_for_a_new_plan_beside_the_old_and_an_upgrade_alone_does_not(
    folder: Path, seeds: Sequence[int]
) -> None:
    async def story(world: World) -> None:
        tale = Story(world, ("good", "good", "rejected"))
        world.faults = dice(world)
        await tale.begin()
        await world.play(tale.ended)
        ended, models, outcomes = await tale.seen()
        old = await tale.plans()

        for replica in list(world.replicas):
            await world.replace(replica, tale.build("2"))
        await tale.tell_again()
        await world.play(tale.ended)
        assert await tale.seen() == (ended, models, outcomes), "the past was not left alone"

        world.faults = Faults()
        await tale.tell_again(**{HEADER_STALE: "1"})
        await world.play(tale.ended)
        after = await tale.seen()
        assert ended.items() <= after[0].items()  # type: ignore[attr-defined]
        assert models.items() <= after[1].items()  # type: ignore[attr-defined]
        again = Counter(c.stem for plan in (await tale.plans())[len(old) :] for c in plan.inputs)
        assert set(again) == {str(stem(n)) for n in tale.objects}
        assert again.total() <= tale.stale, "more plans than were asked for"
        version = tale.stages("2").variant
        for plan in (await tale.plans())[len(old) :]:
            (end,) = await tale.ends(plan)
            assert version in end

    for seed in seeds:
        schedule(seed, folder, QUEUE, story)
