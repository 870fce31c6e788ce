"""Rows that are gone, rows that changed unseen, and sources that are no longer what they were."""

from datetime import timedelta

import pytest

from acequia_ingestor.tables import extract

from .conftest import Desk, things


async def test_a_row_that_says_it_is_deleted_travels_as_such(desk: Desk) -> None:
    desk.registered(things(deleted="label"))  # any column: there, or true
    await desk.source.run(
        "CREATE TABLE things (id bigint PRIMARY KEY, label text, amount numeric, updated_at timestamptz)"
    )
    await desk.source.run("INSERT INTO things VALUES (1, NULL, 1, now()), (2, NULL, 2, now())")
    await desk.load("things")
    await desk.source.run("UPDATE things SET label = 'gone', updated_at = now() WHERE id = 2")
    told = await desk.load("things")
    assert (told["things"]["rows"], told["things"]["deleted"]) == (1, 1)
    assert await desk.moved(2) == [-2]
    assert list((await desk.merged())["id"]) == [1]


async def test_a_row_that_is_gone_is_told_when_keys_are_compared_and_not_again(table: Desk) -> None:
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.insert(1, 2, 3)
    await table.load("things")
    await table.source.run("DELETE FROM things WHERE id = 2")
    await table.insert(4)
    told = await table.load("things")
    assert (told["things"]["rows"], told["things"]["deleted"]) == (2, 1)
    assert await table.moved(2) == [-2, 4]
    await table.same()
    assert (await table.load("things"))["things"]["rows"] == 0
    await table.source.run("INSERT INTO things VALUES (2, 'again', 1, now())")
    await table.load("things")
    assert await table.moved(4) == [2]
    await table.same()


async def test_a_row_that_was_moved_between_two_comparisons_and_is_gone_is_told(table: Desk) -> None:
    table.registered(things(compare_keys_every=timedelta(days=1)))
    await table.insert(1)
    await table.load("things")
    await table.insert(2)
    await table.load("things")
    await table.source.run("DELETE FROM things")
    await table.load("things")
    assert len(await table.parts()) == 2  # not yet
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.load("things")
    assert await table.moved(4) == [-2, -1]
    await table.same()


async def test_a_row_that_changed_without_its_cursor_is_found_when_keys_are_compared(table: Desk) -> None:
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.insert(*range(1, 6), updated_at="now() - interval '10 days'")
    await table.insert(9)
    await table.load("things")
    await table.source.run("UPDATE things SET label = 'unseen' WHERE id = 2")
    await table.source.run("INSERT INTO things VALUES (7, 'of before', 1, now() - interval '1 year')")
    await table.load("things")
    assert await table.moved(2) == [2, 7]
    await table.same()
    assert (await table.load("things"))["things"]["rows"] == 0


async def test_where_very_many_rows_changed_unseen_the_next_load_is_a_full_one(
    table: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "MISSED_MOST", 2)
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.insert(*range(1, 11), updated_at="now() - interval '10 days'")
    await table.insert(99)
    await table.load("things")
    await table.source.run("UPDATE things SET label = 'unseen' WHERE id < 8")
    assert (await table.load("things"))["things"]["rows"] == 0
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"]) == ("full", 11)
    await table.same()


async def test_many_keys_are_compared_in_partitions(table: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from acequia_ingestor.tables import keys

    monkeypatch.setattr(keys, "KEYS_PER_PARTITION", 50)
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.source.run("INSERT INTO things SELECT n, 'x', n, now() FROM generate_series(1, 1000) AS n")
    await table.load("things")
    await table.source.run("DELETE FROM things WHERE id % 7 = 0", "UPDATE things SET amount = 5 WHERE id % 100 = 1")
    await table.load("things")
    await table.same()
    assert (await table.load("things"))["things"]["rows"] == 0


async def test_another_table_of_the_same_name_is_read_in_full(table: Desk) -> None:
    await table.insert(1, 2)
    await table.load("things")
    await table.source.run("ALTER TABLE things RENAME TO before", "CREATE TABLE things (LIKE before)")
    await table.source.run("ALTER TABLE things ADD PRIMARY KEY (id)")
    await table.source.run("INSERT INTO things VALUES (5, 'other', 1, now() - interval '1 year')")
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"]) == ("full", 1)
    await table.same()


async def test_a_source_whose_history_forked_is_not_taken_at_its_word(table: Desk) -> None:
    """After a fail-over transaction numbers that were seen may be given again."""
    await table.insert(1, 2)
    await table.insert(3, updated_at="now() - interval '1 year'")
    await table.load("things")
    state = await table.state()
    state["checkpoint"]["timeline"] += 1
    import json

    from acequia.layers import Layer

    await table.workshop.store.put(
        Layer.LEDGER, "tables/things.json", json.dumps(state).encode(), metadata={}, content_type="application/json"
    )
    await table.source.run("DELETE FROM things WHERE id = 3")
    told = await table.load("things")
    assert told["things"]["kind"] == "changes"
    assert await table.moved(2) == [-3, 1, 2]  # the window once more, and keys are compared at once
    assert (await table.load("things"))["things"]["rows"] == 0


async def test_a_view_has_no_transaction_numbers_and_moves_its_window_each_time(desk: Desk) -> None:
    desk.registered(things("things_seen", compare_keys_every=None))
    from .conftest import THINGS

    await desk.source.run(THINGS, "CREATE VIEW things_seen AS SELECT * FROM things")
    await desk.insert(1)
    await desk.insert(2, updated_at="now() - interval '1 year'")
    await desk.load("things_seen")
    assert (await desk.load("things_seen"))["things_seen"]["rows"] == 1
    await desk.insert(3)
    await desk.load("things_seen")
    assert await desk.moved(3, "things_seen") == [1, 3]


async def test_a_table_without_a_cursor_is_read_in_full_and_moved_where_it_differs(desk: Desk) -> None:
    desk.registered(things(cursor=None))
    from .conftest import THINGS

    await desk.source.run(THINGS)
    await desk.insert(1, 2, 3)
    await desk.load("things")
    await desk.source.run("CREATE TABLE copy AS TABLE things", "TRUNCATE things", "INSERT INTO things TABLE copy")
    told = await desk.load("things")
    assert (told["things"]["kind"], told["things"]["rows"], told["things"]["parts"]) == ("full", 0, 0)
    assert len(await desk.parts()) == 1
    await desk.source.run("DELETE FROM things WHERE id = 2", "UPDATE things SET amount = 7 WHERE id = 3")
    assert (await desk.load("things"))["things"]["rows"] == 2
    await desk.same()
    told = await desk.load(full_refresh=["things"])
    assert (told["things"]["rows"], told["things"]["load"]) == (2, 4)
    await desk.source.run("DELETE FROM things")
    assert (await desk.load("things"))["things"]["parts"] == 1
    ((ended, nothing),) = [part for part in await desk.parts() if part[0].number == 5]
    assert (str(ended), nothing.height) == ("5.full.1of1", 0)
    assert (await desk.load("things"))["things"]["parts"] == 0


async def test_a_full_refresh_moves_everything_and_the_next_load_goes_on_from_there(table: Desk) -> None:
    await table.insert(1, 2, 3)
    await table.load("things")
    await table.source.run("DELETE FROM things WHERE id = 1")
    told = await table.load(full_refresh=["things"])
    assert (told["things"]["kind"], told["things"]["rows"]) == ("full", 2)
    await table.same()
    await table.insert(4)
    await table.load("things")
    assert await table.moved(3) == [4]
    table.registered(things(compare_keys_every=timedelta(0)))
    assert (await table.load("things"))["things"]["rows"] == 0


async def test_a_partitioned_table_is_a_table(desk: Desk) -> None:
    desk.registered(things(compare_keys_every=timedelta(0)))
    await desk.source.run(
        "CREATE TABLE things (id bigint, label text, amount numeric(12, 2), updated_at timestamptz DEFAULT now(), "
        "PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE things_1 PARTITION OF things FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE things_2 PARTITION OF things FOR VALUES FROM (100) TO (200)",
    )
    await desk.insert(1, 101)
    await desk.load("things")
    await desk.source.run(
        "UPDATE things SET amount = 1, updated_at = now() WHERE id = 101", "DELETE FROM things WHERE id = 1"
    )
    await desk.load("things")
    assert await desk.moved(2) == [-1, 101]
    await desk.same()
