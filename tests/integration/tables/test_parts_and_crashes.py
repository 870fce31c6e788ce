"""Long loads go in parts and in stretches; what a crash leaves is gone on from; two of a run do no harm."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from acequia.datasets import VERSION
from acequia.events import META_LOAD, Kind, Status
from acequia.layers import Layer
from acequia.ports import Ack, Delivery, Retry
from acequia_ingestor.ingest import Ingestor

from .conftest import QUEUE, Desk, cut_off_at, keys, taken, things

STEPS = ["after_open", "after_process", "after_begin", "after_part", "after_table", "after_close", "after_store"]


async def carry_through(desk: Desk, ingestors: Sequence[Ingestor], *first: Delivery) -> int:
    """Handle deliveries, and those that follow from them, until none is left; how many there were."""
    waiting, handled = list(first), 0
    while waiting:
        settled = await asyncio.gather(
            *(ingestors[n % len(ingestors)].handle(delivery) for n, delivery in enumerate(waiting))
        )
        handled += len(waiting)
        assert handled < 200
        again = [d for d, done in zip(waiting, settled, strict=True) if isinstance(done, Retry)]
        waiting = again + await taken(desk.workshop, QUEUE)
    return handled


async def fill(desk: Desk, rows: int, label: str = "x") -> None:
    await desk.source.run(
        f"INSERT INTO things SELECT n, '{label}', n, now() - make_interval(secs => n) FROM generate_series(1, {rows}) n"
    )


async def test_rows_go_in_parts_that_say_which_they_are_and_the_last_how_many(table: Desk) -> None:
    table.rows_per_part = 4
    await fill(table, 10)
    told = await table.load("things")
    assert (told["things"]["parts"], told["things"]["rows"]) == (3, 10)
    parts = await table.parts()
    assert [str(load) for load, _ in parts] == ["1.full.1", "1.full.2", "1.full.3of3"]
    assert [set(frame[VERSION]) for _, frame in parts] == [{2**20 + n} for n in (1, 2, 3)]
    assert [frame.height for _, frame in parts] == [4, 4, 2]


@pytest.mark.parametrize("step", STEPS)
async def test_a_load_cut_off_anywhere_ends_as_if_it_had_not_been(table: Desk, step: str) -> None:
    table.rows_per_part = 3
    table.registered(things(compare_keys_every=timedelta(0)))
    ingestor = await table.ingestor()
    for changed in (False, True):
        if changed:
            await table.source.run("DELETE FROM things WHERE id = 5", "UPDATE things SET label = 'y' WHERE id > 8")
            await table.insert(20, 21, 22, 23)
        else:
            await fill(table, 10)
        delivery = await table.order("things")
        cut_off_at(table.workshop, f"ingestor.{step}")
        assert isinstance(await ingestor.handle(delivery), Retry)
        table.workshop.at = lambda _: None
        assert await ingestor.handle(delivery) == Ack()
        told = await table.told()
        assert told["things"]["rows"] == (7 if changed else 10)
        outcome = [r for r in table.said if r.kind is Kind.OUTCOME][-1]
        assert sum(o.rows or 0 for o in outcome.outputs) == told["things"]["rows"]
        await table.same()
        assert await table.moved(2) == ([-5, 9, 10, 20, 21, 22, 23] if changed else [])
    assert (await table.load("things"))["things"]["rows"] == 0
    assert await keys(table.workshop, Layer.LEDGER, "commands/") == []
    assert await keys(table.workshop, Layer.LEDGER, "tables/things/runs/") == []
    assert (await table.state())["open"] == {}


async def test_a_load_cut_off_in_its_middle_goes_on_after_the_last_part_though_the_table_has_moved_on(
    table: Desk,
) -> None:
    table.rows_per_part = 3
    await fill(table, 10)
    delivery = await table.order("things")
    cut_off_at(table.workshop, "ingestor.after_part")
    ingestor = await table.ingestor()
    assert isinstance(await ingestor.handle(delivery), Retry)
    await table.source.run(
        "UPDATE things SET label = 'behind', updated_at = now() WHERE id = 2",
        "UPDATE things SET label = 'ahead', updated_at = now() WHERE id = 9",
        "DELETE FROM things WHERE id = 1 OR id = 8",
    )
    await table.insert(50)
    assert await ingestor.handle(delivery) == Ack()
    assert [list(frame["id"]) for _, frame in await table.parts()] == [[1, 2, 3], [4, 5, 6], [7, 9, 10], [50]]
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.load("things")
    await table.same()


async def test_a_load_that_takes_long_goes_on_in_another_delivery_and_is_one_load(table: Desk) -> None:
    table.rows_per_part = 100
    await table.source.run("INSERT INTO things SELECT n, repeat('x', 3000), n, now() FROM generate_series(1, 20000) n")
    hasty = await table.ingestor(load_seconds=0.0)
    delivery = await table.order("things")
    assert await hasty.handle(delivery) == Ack()
    assert await taken(table.workshop, "acequia.audit") == []
    first = len(await table.parts())
    assert 0 < first < 200
    await table.source.run("DELETE FROM things WHERE id % 2 = 1", "UPDATE things SET amount = 0 WHERE id = 2")
    again = await taken(table.workshop, QUEUE)
    assert len(again) == 1
    assert await carry_through(table, [hasty], *again) > 0
    told = await table.told()
    loads = [str(load) for load, _ in await table.parts()]
    assert loads[-1].endswith(f"of{len(loads)}")
    assert {load.partition(".")[0] for load in loads} == {"1"}
    assert told["things"]["parts"] == len(loads)
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.load("things")
    await table.same()


async def test_a_long_load_of_which_nothing_is_left_ends_with_an_empty_part(table: Desk) -> None:
    table.rows_per_part = 100
    await table.source.run("INSERT INTO things SELECT n, repeat('x', 3000), n, now() FROM generate_series(1, 20000) n")
    hasty = await table.ingestor(load_seconds=0.0)
    assert await hasty.handle(await table.order("things")) == Ack()
    await table.source.run("DELETE FROM things WHERE id > 1000")
    assert await carry_through(table, [hasty], *await taken(table.workshop, QUEUE)) == 1
    load, frame = (await table.parts())[-1]
    assert (load.parts, frame.height) == (load.part, 0)


async def test_a_long_load_of_changes_ends_though_people_write_faster_than_it_reads(table: Desk) -> None:
    table.rows_per_part = 100
    await fill(table, 10)
    await table.load("things")
    await table.source.run(
        "INSERT INTO things SELECT n, repeat('x', 3000), n, now() FROM generate_series(100, 20000) n"
    )
    hasty = await table.ingestor(load_seconds=0.0)
    assert await hasty.handle(await table.order("things")) == Ack()
    again = await taken(table.workshop, QUEUE)
    for _ in range(60):
        if not again:
            break
        await table.source.run(
            "UPDATE things SET label = repeat('y', 3000), updated_at = clock_timestamp() WHERE id BETWEEN 100 AND 3000"
        )
        assert await hasty.handle(again[0]) == Ack()
        again = await taken(table.workshop, QUEUE)
    assert not again
    assert (await table.load("things"))["things"]["rows"] == 2901
    await table.same()


async def test_several_tables_of_one_run_share_its_time_and_each_is_loaded_once(table: Desk) -> None:
    table.registered(things(), things("others"))
    await table.source.run("CREATE TABLE others (LIKE things INCLUDING ALL)", "INSERT INTO others VALUES (1, 'a', 1)")
    await table.insert(1, 2)
    hasty = await table.ingestor(load_seconds=1e-9)
    assert await carry_through(table, [hasty], await table.order("things", "others")) > 1
    told = await table.told()
    assert {name: result["rows"] for name, result in told.items()} == {"things": 2, "others": 1}
    outcome = [r for r in table.said if r.kind is Kind.OUTCOME][-1]
    assert (outcome.dataset, outcome.rows_out, outcome.status) == ("_tables", 3, Status.SUCCESS)


async def test_tables_that_are_only_checked_share_its_time_too_and_each_is_checked_once(table: Desk) -> None:
    table.registered(things(), things("others"), things("absent"))
    await table.source.run("CREATE TABLE others (LIKE things INCLUDING ALL)", "INSERT INTO others VALUES (1, 'a', 1)")
    hasty = await table.ingestor(load_seconds=1e-9)
    assert await carry_through(table, [hasty], await table.order("things", "absent", "others", only_validate=True)) == 3
    told = await table.told()
    assert [table["rejected"] for table in told.values()] == [None, "unknown_table", None]
    assert await keys(table.workshop, Layer.LEDGER, "tables/") == []


async def test_the_same_command_delivered_twice_at_once_makes_one_load(table: Desk) -> None:
    table.rows_per_part = 2
    await fill(table, 9)
    delivery = await table.order("things")
    ingestors = [await table.ingestor(), await table.ingestor()]
    await carry_through(table, ingestors, delivery, delivery)
    await table.told()
    outcomes = {r.event_id: r for r in table.said if r.kind is Kind.OUTCOME}
    assert len(outcomes) == 1
    assert await table.moved(1) == list(range(1, 10))
    state = await table.state()
    assert (state["checkpoint"]["load"], state["open"]) == (1, {})
    assert (await table.load("things"))["things"]["rows"] == 0


async def test_a_command_that_is_sent_again_while_it_is_carried_out_is_not_read_twice(table: Desk) -> None:
    await fill(table, 9)
    delivery = await table.order("things")
    ingestor = await table.ingestor()
    assert await asyncio.gather(*(ingestor.handle(delivery) for _ in range(4))) == [Ack()] * 4
    await table.told()
    assert len([r for r in table.said if r.kind is Kind.OUTCOME]) == 1
    assert (await table.state())["load"] == 1


async def test_a_load_that_was_opened_before_another_closes_without_moving_the_checkpoint(table: Desk) -> None:
    await table.insert(1)
    await table.load("things")
    slow, fast = await table.order("things"), await table.order("things")
    ingestor = await table.ingestor()
    cut_off_at(table.workshop, "ingestor.after_open")
    assert isinstance(await ingestor.handle(slow), Retry)
    await table.insert(2)
    assert await ingestor.handle(fast) == Ack()
    await table.insert(3)
    assert await ingestor.handle(slow) == Ack()
    told = await table.told()
    assert told["things"]["load"] == 2
    assert (await table.state())["checkpoint"]["load"] == 3
    assert (await table.moved(2), await table.moved(3)) == ([2, 3], [2])
    await table.load("things")
    assert await table.moved(4) == [3]  # what the older load saw later is of a lower version: it comes again
    await table.same()


async def test_rows_of_a_load_that_never_ended_are_told_when_they_are_gone(table: Desk) -> None:
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.insert(1)
    await table.load("things")
    await table.insert(2)
    cut_off_at(table.workshop, "ingestor.after_part")
    await (await table.ingestor()).handle(await table.order("things"))  # and its run never comes back
    await table.source.run("DELETE FROM things WHERE id = 2")
    await table.load("things")
    assert await table.moved(3) == [-2]
    await table.same()


async def test_a_run_told_twice_has_one_outcome_and_makes_no_second_load(table: Desk) -> None:
    await table.insert(1)
    run_id = uuid4()
    delivery = await table.order("things", run_id=run_id)
    ingestor = await table.ingestor()
    await ingestor.handle(delivery)
    await table.insert(2)
    await ingestor.handle(delivery)
    await table.told()
    assert {r.run_id for r in table.said if r.kind is Kind.OUTCOME} == {UUID(str(run_id))}
    assert (await table.state())["load"] == 1


async def test_parts_carry_run_and_load_and_no_part_is_put_before_the_table_was_read(table: Desk) -> None:
    run_id = uuid4()
    await table.insert(1)
    await (await table.ingestor()).handle(await table.order("things", run_id=run_id))
    (key,) = await keys(table.workshop, Layer.RAW)
    head = await table.workshop.store.head(Layer.RAW, key)
    assert head is not None
    assert (head.metadata["acequia-run-id"], head.metadata[META_LOAD]) == (str(run_id), "1.full.1of1")


KEYLESS = "CREATE TABLE things (id bigint, label text, amount numeric(12, 2), updated_at timestamptz DEFAULT now())"


async def test_what_was_blocked_stays_blocked_though_its_load_is_cut_off(desk: Desk) -> None:
    desk.registered(things())
    desk.rows_per_part = 2
    await desk.source.run(KEYLESS, "INSERT INTO things VALUES (1, 'a'), (1, 'b'), (2, 'c'), (3, 'd'), (4, 'e')")
    ingestor, delivery = await desk.ingestor(), await desk.order("things")
    cut_off_at(desk.workshop, "ingestor.after_part")
    assert isinstance(await ingestor.handle(delivery), Retry)
    assert await ingestor.handle(delivery) == Ack()
    told = (await desk.told())["things"]
    assert told["blocked"] == ["duplicate_keys"]
    assert [check["name"] for check in told["checks"] if not check["passed"]] == ["duplicate_keys"]
    assert await desk.parts() == []
    assert "checkpoint" not in await desk.state()
    await desk.source.run("DELETE FROM things WHERE label = 'b'")
    assert (await desk.load("things"))["things"]["rows"] == 4
    await desk.same()


async def test_a_load_whose_last_part_stands_gets_no_further_one(table: Desk) -> None:
    await table.insert(1, 2)
    ingestor, delivery = await table.ingestor(), await table.order(full_refresh=["things"])
    cut_off_at(table.workshop, "ingestor.after_part")
    assert isinstance(await ingestor.handle(delivery), Retry)
    await table.insert(3, updated_at="now() - interval '2 hours'")
    assert await ingestor.handle(delivery) == Ack()
    assert [str(load) for load, _ in await table.parts()] == ["1.full.1of1"]
    assert (await table.told())["things"]["rows"] == 2
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.load("things")
    await table.same()


async def test_keys_are_told_apart_over_the_whole_of_a_load_before_its_first_part_is_put(desk: Desk) -> None:
    desk.registered(things())
    desk.rows_per_part = 100
    await desk.source.run(KEYLESS, "INSERT INTO things SELECT n, repeat('x', 3000), n FROM generate_series(1, 20000) n")
    await desk.source.run("INSERT INTO things VALUES (19999, 'again', 1)")
    hasty = await desk.ingestor(load_seconds=0.0)
    await carry_through(desk, [hasty], await desk.order("things"))
    assert (await desk.told())["things"]["blocked"] == ["duplicate_keys"]
    assert await desk.parts() == []
