"""What a load moves: just the rows that changed since the last, whatever their cursor says."""

from datetime import timedelta
from typing import Any

import pytest

from .conftest import Desk


async def insert(desk: Desk, *rows: int, **more: str) -> None:
    for row in rows:
        names = ", ".join(["id", "label", *more])
        values = ", ".join([str(row), f"'thing {row}'", *more.values()])
        await desk.source.run(f"INSERT INTO things ({names}) VALUES ({values})")


async def same(desk: Desk) -> None:
    """What RAW says is what the source has."""
    rows = await desk.source.connection.fetch("SELECT * FROM things ORDER BY id")
    merged = await desk.merged()
    assert [tuple(r.values()) for r in merged.to_dicts()] == [tuple(r.values()) for r in rows]


async def test_the_first_load_is_a_full_one_and_the_next_moves_just_what_changed(table: Desk) -> None:
    await insert(table, 1, 2, 3)
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"]) == ("full", 3)
    await table.source.run("UPDATE things SET label = 'new', updated_at = now() WHERE id = 2")
    await insert(table, 4)
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"], told["things"]["load"]) == ("changes", 2, 2)
    assert await table.moved(2) == [2, 4]
    await same(table)
    assert (await table.load("things"))["things"]["rows"] == 0
    assert len(await table.parts()) == 2
