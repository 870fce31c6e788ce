"""Writers, loads and crashes in any order: what RAW says is what the source has, and no row is moved without need.

Seeds are fixed; ACEQUIA_SCHEDULES tries so many further ones.
"""

import os
import random
from datetime import timedelta
from typing import Any

import pytest

from acequia.datasets import DELETED, VERSION
from acequia.ports import Ack, Retry

from .conftest import Desk, cut_off_at, things

STEPS = ["after_open", "after_process", "after_begin", "after_part", "after_table", "after_close", "after_store"]
SEEDS = range(int(os.environ.get("ACEQUIA_SCHEDULES", "4")))


class Writers:
    """Sessions that change the table, each in a transaction of its own that may stay open for long."""

    def __init__(self, desk: Desk, draw: random.Random, *, unseen: bool) -> None:
        """`unseen`: they delete rows as well, and stamp changes long before they make them."""
        self._unseen = unseen
        self._desk = desk
        self._draw = draw
        self._free: list[Any] = []
        self._open: dict[Any, set[int]] = {}
        self._next = 1000

    async def begin(self, sessions: int) -> None:
        self._free = [await self._desk.source.session() for _ in range(sessions)]

    async def step(self) -> None:
        draw = self._draw
        if self._free and draw.random() < 0.4:
            session = self._free.pop()
            await session.execute("BEGIN")
            self._open[session] = set()
        elif self._open and draw.random() < 0.4:
            await self.end(draw.choice(list(self._open)))
        elif self._open:
            await self._write(draw.choice(list(self._open)))

    async def end(self, session: Any) -> None:
        await session.execute("COMMIT" if self._draw.random() < 0.8 else "ROLLBACK")
        del self._open[session]
        self._free.append(session)

    async def end_all(self) -> None:
        for session in list(self._open):
            await self.end(session)

    async def _write(self, session: Any) -> None:
        draw = self._draw
        locked = set().union(*self._open.values())
        rows = [row for row in range(1, 30) if row not in locked]
        stamps = ["now()", "clock_timestamp()", "NULL"] + ["'2026-01-01 00:00:00+00'"] * self._unseen
        stamp = draw.choice(stamps)
        point = draw.random() < 0.3
        if point:
            await session.execute("SAVEPOINT here")
        if draw.random() < 0.3 or not rows:
            self._next += 1
            await session.execute(f"INSERT INTO things VALUES ({self._next}, 'new', 1, {stamp})")
        else:
            row = draw.choice(rows)
            self._open[session].add(row)
            if self._unseen and draw.random() < 0.15:
                await session.execute(f"DELETE FROM things WHERE id = {row}")
            else:
                change = draw.randrange(100000)
                # a cursor grows with each change, or is null
                grown = f"greatest({stamp}, updated_at)" if stamp != "NULL" else "NULL"
                await session.execute(
                    f"INSERT INTO things VALUES ({row}, 'r{change}', 1, now()) ON CONFLICT (id) DO UPDATE "
                    f"SET label = 'r{change}', updated_at = {grown.replace('updated_at', 'things.updated_at')}"
                )
        if point:
            await session.execute("RELEASE here" if draw.random() < 0.7 else "ROLLBACK TO here")


@pytest.mark.parametrize("seed", SEEDS)
async def test_whoever_commits_when_each_change_is_moved_once_by_its_cursor_alone(table: Desk, seed: int) -> None:
    draw = random.Random(seed)
    table.registered(things(compare_keys_every=None))
    await table.source.run("INSERT INTO things SELECT n, 'first', n, now() FROM generate_series(1, 25) AS n")
    writers = Writers(table, draw, unseen=False)
    await writers.begin(4)
    for _ in range(7):
        for _ in range(draw.randrange(15)):
            await writers.step()
        await table.load("things")
    await writers.end_all()
    await table.load("things")
    await table.same()
    await _no_row_was_moved_twice(table)
    assert (await table.load("things"))["things"]["rows"] == 0


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
async def test_after_any_number_of_loads_raw_says_what_the_source_has(table: Desk, seed: int, crashes: bool) -> None:
    draw = random.Random(seed)
    table.rows_per_part = draw.choice([2, 5, 1000])
    await table.source.run("INSERT INTO things SELECT n, 'first', n, now() FROM generate_series(1, 25) AS n")
    writers = Writers(table, draw, unseen=True)
    await writers.begin(4)
    for _ in range(7):
        for _ in range(draw.randrange(12)):
            await writers.step()
        compare = draw.random() < 0.3
        table.registered(things(compare_keys_every=timedelta(0) if compare else timedelta(days=1)))
        ingestor, delivery = await table.ingestor(), await table.order("things")
        if crashes and draw.random() < 0.6:
            cut_off_at(table.workshop, f"ingestor.{draw.choice(STEPS)}")
            settled = await ingestor.handle(delivery)
            table.workshop.at = lambda _: None
            for _ in range(draw.randrange(4)):
                await writers.step()
            if draw.random() < 0.3:
                continue  # and nobody ever comes back to it
            assert settled == Ack() or isinstance(settled, Retry)
        assert await ingestor.handle(delivery) == Ack()
    await writers.end_all()
    table.registered(things())
    await table.load("things")
    table.registered(things(compare_keys_every=timedelta(0)))
    await table.load("things")
    await table.same()
    if not crashes:
        await _no_row_was_moved_twice(table)
    assert (await table.load("things"))["things"]["rows"] == 0


async def _no_row_was_moved_twice(desk: Desk) -> None:
    """A row that was moved differs from what was moved of its key before."""
    before: dict[int, Any] = {}
    for _, frame in await desk.parts():
        for row in frame.drop(VERSION).to_dicts():
            assert before.get(row["id"]) != row or row[DELETED], row
            before[row["id"]] = row
