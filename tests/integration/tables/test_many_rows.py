"""A large table, of which little changes. ACEQUIA_TABLE_ROWS says how large: 1,000,000 is what is promised."""

import os

from .conftest import Desk

ROWS = int(os.environ.get("ACEQUIA_TABLE_ROWS", "60000"))
CHANGES = 1000


async def test_of_a_large_table_just_the_rows_that_changed_are_moved(table: Desk) -> None:
    table.rows_per_part = 250_000
    await table.source.run(
        "INSERT INTO things SELECT n, 'thing ' || n, n % 1000, now() - make_interval(secs => n % 7776000) "
        f"FROM generate_series(1, {ROWS}) AS n",
        "ANALYZE things",
    )
    told = await table.load("things")
    assert told["things"]["rows"] == ROWS
    updated = CHANGES * 8 // 10
    step = ROWS // updated
    await table.source.run(
        f"UPDATE things SET amount = amount + 1, updated_at = now() WHERE id % {step} = 0 AND id <= {step * updated}",
        "INSERT INTO things SELECT n, 'new', 1, now() "
        f"FROM generate_series({ROWS + 1}, {ROWS + CHANGES - updated}) AS n",
    )
    told = await table.load("things")
    assert (told["things"]["kind"], told["things"]["rows"], told["things"]["parts"]) == ("changes", CHANGES, 1)
    changed = [step * n for n in range(1, updated + 1)] + list(range(ROWS + 1, ROWS + CHANGES - updated + 1))
    assert await table.moved(2) == changed
    assert (await table.load("things"))["things"]["rows"] == 0
