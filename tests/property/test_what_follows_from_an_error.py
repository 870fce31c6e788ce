"""What follows from an error, on the embedded bus and in a time of its own: the whole ladder takes no time here.

| what went wrong | what follows | shown here, and in |
|---|---|---|
| `TransientFailure` | next rung, growing delay, own attempt header; dead after the last | tests/contract/test_what_every_bus_does.py (both buses) |
| `TransientFailure(away=True)` | the message waits in hand, with a capped back-off | unit/framework/test_one_delivery.py, e2e/test_the_services_on_the_real_servers.py |
| `RejectedInput` | quarantine and REJECTED at once, never dead | unit/framework/test_one_delivery.py, unit/ingestor_service/test_ingest.py |
| a bug | next rung; dead after the last, with its traceback | contract/test_what_every_bus_does.py, integration/auditor/test_dead_letters.py (the DEAD record) |
| `ConfigurationError` at work | handed back, and the process ends | unit/framework/test_a_process_and_its_end.py |
| `ConfigurationError` at the start | the process ends with code 2 and one line | unit/framework/test_a_process_and_its_end.py |
| a full temporary folder | as transient | unit/framework/test_a_process_and_its_end.py (folders that are left) |
| an error of a third party | one of the above, translated in its adapter | unit/adapters/test_every_method_translates_*.py |
"""  # noqa: E501

import errno
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from acequia.batches import MOST_FAILURES
from acequia.errors import ConfigurationError, TransientFailure
from acequia.events import Status
from acequia.layers import Layer, data_key
from acequia.runner import StageRunner, Workshop
from acequia.stage import Stage
from acequia.topology import DEFAULT_RETRY_DELAYS, dead_queue
from acequia.work import Outcome, RejectedWhole, Work

from .test_many_objects_one_plan import Story
from .test_one_object_one_artifact import QUEUE, stem
from .world import Faults, World, notification, once, put, schedule

DEAD = dead_queue("transformer")


def lived_through(folder: Path, process: Callable[[int], Any], look: Callable[[World, list[float]], Any]) -> None:
    """One object is told of once; `process` is given the number of the try; `look` sees the world at the end, and when
    each try was."""
    tries: list[float] = []

    async def story(world: World) -> None:
        world.faults = Faults(impatience=0)

        def work(_: Work, inputs: Sequence[Path], out: Path) -> Outcome:
            tries.append(world.clock.seconds)
            process(len(tries))
            target = out / "rows.parquet"
            target.write_bytes(inputs[0].read_bytes())
            return Outcome(output=target, rows_in=3, rows_out=3)

        def build(workshop: Workshop) -> StageRunner:
            workshop.fatal = world.ended.append
            return StageRunner(Stage("transformer", "1", Layer.RAW, Layer.SILVER, work), workshop)

        async def enough() -> bool:
            return True

        world.start(build, concurrency=1)
        info = await put(world, Layer.RAW, data_key(stem(1)), b"data", acequia_rows="3")
        world.post(notification(info))
        await world.play(enough)
        await look(world, tries)

    schedule(0, folder, QUEUE, story)


def fails(error: Exception, times: int = 1_000_000) -> Callable[[int], None]:
    def process(number: int) -> None:
        if number <= times:
            raise error

    return process


def delays(tries: Sequence[float]) -> list[float]:
    return [round(later - earlier, 1) for earlier, later in pairwise(tries)]


async def statuses(world: World) -> list[tuple[Status, int]]:
    return [(r.status, r.attempt) for r in once(world.records()).values()]


def test_a_passing_failure_climbs_the_ladder_with_growing_delay_and_is_dead_after_the_last_rung(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert delays(tries) == list(DEFAULT_RETRY_DELAYS)
        assert await statuses(world) == [(Status.FAILED, n) for n in range(1, 7)]
        ((headers, _),) = world.bodies(DEAD)
        assert '"acequia-attempt": "6"' in headers
        assert "no room" in headers
        assert await world.keys(Layer.QUARANTINE) == []

    lived_through(folder, fails(TransientFailure("no room", dependency="disk")), look)


def test_a_failure_that_passes_costs_no_more_than_its_rungs(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert delays(tries) == [1, 5]
        assert await statuses(world) == [(Status.FAILED, 1), (Status.FAILED, 2), (Status.SUCCESS, 1)]
        assert world.bodies(DEAD) == []

    lived_through(folder, fails(TransientFailure("no room", dependency="disk"), times=2), look)


def test_while_a_server_is_away_for_long_nothing_climbs_and_the_pauses_stay_short(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert tries[-1] > 1200, "longer than one delivery waits"
        assert max(delays(tries)) <= 5
        assert await statuses(world) == [(Status.SUCCESS, 1)]
        assert world.bodies(DEAD) == []

    lived_through(folder, fails(TransientFailure("no answer", dependency="minio", away=True), times=260), look)


def test_a_rejected_input_is_in_quarantine_at_once_and_never_dead(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert tries == [0]
        assert await statuses(world) == [(Status.REJECTED, 1)]
        (manifest,) = await world.keys(Layer.QUARANTINE)
        assert (await world.document(Layer.QUARANTINE, manifest))["reason"] == "none survived"
        assert world.bodies(DEAD) == []

    lived_through(folder, fails(RejectedWhole("no_rows", "none survived", rows_in=3)), look)


def test_a_bug_is_tried_again_some_times_and_then_dead_with_its_traceback(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert delays(tries) == list(DEFAULT_RETRY_DELAYS)
        records = once(world.records()).values()
        assert all(r.error and r.error.traceback and "KeyError: 'column'" in r.error.traceback for r in records)
        ((headers, _),) = world.bodies(DEAD)
        assert "Traceback (most recent call last)" in headers
        assert "in process" in headers

    lived_through(folder, fails(KeyError("column")), look)


def test_a_full_disk_under_the_temporary_folder_is_no_bug(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert delays(tries) == [1]
        first, second = once(world.records()).values()
        assert (first.status, second.status) == (Status.FAILED, Status.SUCCESS)
        assert first.error is not None
        assert first.error.type == "TransientFailure"
        meters = world.replicas[0].runner.workshop.meters.deliveries
        assert meters.labels("transformer", "retry")._value.get() == 1
        assert meters.labels("transformer", "bug")._value.get() == 0

    lived_through(folder, fails(OSError(errno.ENOSPC, "No space left on device"), times=1), look)


def test_a_full_disk_is_no_failure_of_a_plan_either(folder: Path) -> None:
    tries: list[int] = []

    async def story(world: World) -> None:
        world.faults = Faults(impatience=0)
        tale = Story(world, ("good",))
        train = tale.stages.process

        def full_at_first(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
            tries.append(1)
            if len(tries) <= MOST_FAILURES:
                raise OSError(errno.ENOSPC, "No space left on device")
            return train(work, inputs, out)

        tale.stages.process = full_at_first  # type: ignore[method-assign]
        await tale.begin()
        await world.play(tale.ended)
        await tale.check()
        assert world.bodies(dead_queue("trainer")) == []
        assert len(tries) > MOST_FAILURES

    schedule(0, folder, "acequia.trainer", story)


def test_a_setting_that_a_person_must_change_ends_the_process_and_burns_no_attempt(folder: Path) -> None:
    async def look(world: World, tries: list[float]) -> None:
        assert [str(error) for error in world.ended] == ["wrong password"]
        assert await statuses(world) == [(Status.SUCCESS, 1)]
        assert world.bodies(DEAD) == []

    lived_through(folder, fails(ConfigurationError("wrong password"), times=1), look)
