"""What a load moves: just the rows that changed since the last, whatever their cursor says."""

from datetime import timedelta

import polars as pl
import pytest

from acequia.datasets import Table
from acequia.datasets._table import Column, table_dataset
from acequia_ingestor.tables import extract

from .conftest import Desk, things


async def test_the_first_load_is_a_full_one_and_the_next_moves_just_what_changed(table: Desk) -> None:
    await table.insert(1, 2, 3)
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"]) == ("full", 3)
    await table.source.run("UPDATE things SET label = 'new', updated_at = now() WHERE id = 2")
    await table.insert(4)
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"], told["things"]["load"]) == ("changes", 2, 2)
    assert await table.moved(2) == [2, 4]
    await table.same()
    assert (await table.load("things"))["things"]["rows"] == 0
    assert len(await table.parts()) == 2


async def test_a_change_that_was_stamped_before_the_last_load_and_committed_after_it_is_found(table: Desk) -> None:
    await table.insert(1, 2)
    late = await table.source.session()
    transaction = late.transaction()
    await transaction.start()
    await late.execute("INSERT INTO things VALUES (3, 'late', 1, now())")
    await late.execute("UPDATE things SET label = 'late', updated_at = now() WHERE id = 1")
    await table.insert(4)
    await table.load("things")
    assert await table.moved(1) == [1, 2, 4]
    await transaction.commit()
    await table.insert(5)
    assert (await table.load("things"))["things"]["rows"] == 3
    assert await table.moved(2) == [1, 3, 5]
    await table.same()


async def test_of_rows_with_the_same_stamp_just_those_that_came_after_the_last_load_are_moved(table: Desk) -> None:
    stamp = "'2026-01-01 12:00:00.123456+00'"
    await table.insert(1, 3, 5, updated_at=stamp)
    await table.load("things")
    await table.insert(2, 6, updated_at=stamp)
    await table.load("things")
    assert await table.moved(2) == [2, 6]
    assert (await table.load("things"))["things"]["rows"] == 0
    await table.same()


async def test_rows_without_a_stamp_are_moved_when_they_change_and_not_again(table: Desk) -> None:
    await table.insert(1, 2, updated_at="NULL")
    await table.insert(3)
    await table.load("things")
    assert (await table.load("things"))["things"]["rows"] == 0
    await table.source.run("UPDATE things SET label = 'changed' WHERE id = 2")
    await table.insert(4, updated_at="NULL")
    await table.load("things")
    assert await table.moved(3) == [2, 4]
    await table.same()


async def test_a_row_of_a_subtransaction_that_was_open_during_the_last_load_is_found_and_moved_once(
    table: Desk,
) -> None:
    await table.insert(1)
    late = await table.source.session()
    outer = late.transaction()
    await outer.start()
    await late.execute("INSERT INTO things VALUES (10, 'outer', 1, now())")
    for row in (11, 12):
        async with late.transaction():  # a savepoint: a transaction number of its own
            await late.execute(f"INSERT INTO things VALUES ({row}, 'inner', 1, now())")
    rolled = late.transaction()
    await rolled.start()
    await late.execute("INSERT INTO things VALUES (13, 'rolled back', 1, now())")
    await rolled.rollback()
    await table.insert(2, 3)  # numbers above the open ones: the snapshot's highest is beyond them
    await table.load("things")
    assert await table.moved(1) == [1, 2, 3]
    await outer.commit()
    await table.load("things")
    assert await table.moved(2) == [10, 11, 12]
    assert (await table.load("things"))["things"]["rows"] == 0
    await table.same()


async def test_rows_that_were_moved_while_an_older_transaction_was_open_are_not_moved_again(table: Desk) -> None:
    late = await table.source.session()
    open_for_long = late.transaction()
    await open_for_long.start()
    await late.execute("INSERT INTO things VALUES (1, 'for long', 1, now())")
    for row in range(10, 20):
        await table.insert(row)
    await table.load("things")
    assert len(await table.moved(1)) == 10
    assert (await table.load("things"))["things"]["rows"] == 0
    await open_for_long.commit()
    await table.load("things")
    assert await table.moved(3) == [1]
    await table.same()


async def test_of_more_transactions_than_are_remembered_rows_are_moved_again_and_none_is_lost(
    table: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "SEEN_MOST", 3)
    late = await table.source.session()
    open_for_long = late.transaction()
    await open_for_long.start()
    await late.execute("INSERT INTO things VALUES (1, 'for long', 1, now())")
    await table.insert(2, 3, 4, 5, 6)
    await table.load("things")
    await open_for_long.commit()
    await table.load("things")
    assert await table.moved(2) == [1, 2, 3, 4, 5, 6]
    await table.same()


async def test_a_prepared_transaction_is_found_once_it_is_committed(table: Desk) -> None:
    if not int(await table.source.value("SELECT current_setting('max_prepared_transactions')")):
        pytest.skip("this server takes no prepared transactions")
    late = await table.source.session()
    await late.execute("BEGIN")
    await late.execute("INSERT INTO things VALUES (1, 'prepared', 1, now())")
    await late.execute("PREPARE TRANSACTION 'later'")
    await table.insert(2)
    await table.load("things")
    await table.source.run("COMMIT PREPARED 'later'")
    await table.load("things")
    assert await table.moved(2) == [1]


async def test_a_transaction_that_lasts_longer_than_the_lag_is_found_as_its_beginning_is_known(table: Desk) -> None:
    table.registered(things(lag=timedelta(0)))
    late = await table.source.session()
    transaction = late.transaction()
    await transaction.start()
    await late.execute("SELECT now()")
    await table.insert(1)
    await table.load("things")
    await late.execute("INSERT INTO things VALUES (2, 'stamped at the beginning', 1, now())")
    await transaction.commit()
    await table.load("things")
    assert await table.moved(2) == [2]


async def test_a_stamp_from_the_future_hides_nothing(table: Desk) -> None:
    await table.insert(1, updated_at="'2199-01-01'")
    await table.insert(2, updated_at="'infinity'")
    await table.load("things")
    await table.insert(3)
    await table.load("things")
    assert await table.moved(2) == [3]


async def test_a_cursor_that_is_a_number_needs_no_lag(desk: Desk) -> None:
    numbered = table_dataset(
        "things",
        "Things",
        {"id": Column(pl.Int64()), "version": Column(pl.Int64())},
        key=("id",),
        table=Table(relation="public.things", pack="tests", cursor="version"),
    )
    desk.registered(numbered)
    await desk.source.run("CREATE TABLE things (id bigint PRIMARY KEY, version bigint)")
    late = await desk.source.session()
    transaction = late.transaction()
    await transaction.start()
    await late.execute("INSERT INTO things VALUES (1, 1)")
    await desk.source.run("INSERT INTO things VALUES (2, 500)")
    await desk.load("things")
    await transaction.commit()
    await desk.load("things")
    assert await desk.moved(2) == [1]
