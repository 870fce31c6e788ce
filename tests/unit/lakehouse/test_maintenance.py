"""Small files become few, snapshots expire, orphans go; SILVER's own files never do."""

import os
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import FileScanTask

from acequia.errors import TransientFailure
from acequia.layers import Layer, data_key
from acequia_lakehouse import maintain
from acequia_lakehouse.maintain import compact, describe, expire
from acequia_lakehouse.tables import PROPERTIES

from .conftest import OLD, Lake, open_lake, people, visits

NAME = ("silver", "visits")
LATER = datetime.now(UTC) + timedelta(days=1)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def warehouse(lake: Lake) -> set[str]:
    return {str(p) for p in Path(lake.tables.settings.warehouse).rglob("*") if p.is_file() and "sqlite" not in p.name}


def silver(lake: Lake) -> list[Path]:
    return sorted(Path(lake.tables.place.roots[Layer.SILVER]).rglob("*.parquet"))


def filled(lake: Lake, objects: int) -> None:
    for number in range(1, objects + 1):
        lake.plan(number, lake.put("visits", number, visits(number)))


def test_many_small_files_become_one_and_silvers_stay(lake: Lake) -> None:
    filled(lake, 5)
    before = silver(lake)

    done = compact(lake.tables, NAME, ())

    assert (done.files_before, done.files_after, done.rows, done.commits) == (5, 1, 5, 1)
    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2, 3, 4, 5]
    assert silver(lake) == before and all(pq.read_metadata(path).num_rows == 1 for path in before)


@pytest.mark.parametrize("how", ["rows are missing", "it cannot be decoded"])
def test_a_file_that_is_read_wrongly_is_not_compacted_away(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    filled(lake, 5)
    read = ArrowScan.to_table

    def wrongly(scan: ArrowScan, tasks: Iterable[FileScanTask]) -> pa.Table:
        if how == "rows are missing":
            return read(scan, tasks).slice(1)
        raise pa.ArrowInvalid("Parquet magic bytes not found in footer")

    with monkeypatch.context() as patched:
        patched.setattr(ArrowScan, "to_table", wrongly)
        with pytest.raises(TransientFailure, match="read"):
            compact(lake.tables, NAME, ())

    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2, 3, 4, 5]
    assert compact(lake.tables, NAME, ()).files_after == 1


def test_what_compacting_would_do_is_told_and_not_done(lake: Lake) -> None:
    filled(lake, 3)
    files = warehouse(lake)

    told = compact(lake.tables, NAME, (), dry_run=True)

    assert (told.files_before, told.files_after, told.rows, told.commits) == (3, 1, 3, 0)
    assert (warehouse(lake), lake.snapshots("visits")) == (files, 3)


def test_fewer_small_files_than_asked_for_are_left_alone(lake: Lake) -> None:
    filled(lake, 3)

    assert compact(lake.tables, NAME, (), at_least=4).commits == 0
    assert compact(lake.tables, NAME, (), at_least=3).commits == 1


def test_files_are_no_larger_than_the_setting_says(tmp_path: Path) -> None:
    lake = open_lake(tmp_path, file_rows=4)
    for number in range(1, 6):
        lake.plan(number, lake.put("visits", number, visits(number, number + 10)))

    done = compact(lake.tables, NAME, ())

    table = lake.tables.find(NAME)
    assert table is not None
    assert (done.files_after, max(file.rows for file in lake.tables.files(table))) == (3, 4)


def test_expired_snapshots_take_the_files_along_that_only_they_named(lake: Lake) -> None:
    filled(lake, 3)
    lake.plan(9, lake.put("visits", 1, visits(1, 100), "v2-bbbbbb"))
    compact(lake.tables, NAME, ())
    before, objects = warehouse(lake), silver(lake)

    done = expire(lake.tables, NAME, LATER)

    assert (done.snapshots_before, done.snapshots_after) == (5, 1)
    assert done.files_removed == len(before - warehouse(lake)) - 0 > 0
    assert silver(lake) == objects
    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2, 3, 100]


def test_what_is_younger_than_asked_for_stays_but_for_what_is_too_many(lake: Lake) -> None:
    filled(lake, 4)

    assert expire(lake.tables, NAME, LONG_AGO).snapshots_after == 4
    assert expire(lake.tables, NAME, LONG_AGO, 2).snapshots_after == 2
    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2, 3, 4]


def test_what_a_table_was_at_a_time_can_be_read_however_old_it_was_by_then(lake: Lake) -> None:
    filled(lake, 2)
    asked_for = datetime.now(UTC)
    time.sleep(0.01)
    lake.plan(3, lake.put("visits", 3, visits(3)))

    assert expire(lake.tables, NAME, asked_for).snapshots_after == 2

    table = lake.tables.find(NAME)
    assert table is not None
    then = table.snapshot_as_of_timestamp(int(asked_for.timestamp() * 1000))
    assert then is not None
    assert sorted(table.scan(snapshot_id=then.snapshot_id).to_arrow()["id"].to_pylist()) == [1, 2]


def test_what_expiring_would_do_is_told_and_not_done(lake: Lake) -> None:
    filled(lake, 3)
    compact(lake.tables, NAME, ())
    files = warehouse(lake)

    told = expire(lake.tables, NAME, LATER, dry_run=True)

    assert (told.snapshots_before, told.snapshots_after) == (4, 1) and told.files_removed > 0
    assert (warehouse(lake), lake.snapshots("visits")) == (files, 4)


def test_files_of_a_crashed_commit_go_once_they_are_a_day_old(lake: Lake) -> None:
    filled(lake, 1)
    folder = Path(lake.tables.settings.warehouse) / "silver" / "visits" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    young, old = folder / "young.parquet", folder / "old.parquet"
    for path in (young, old):
        path.write_bytes(b"left behind")
    yesterday = datetime.now(UTC).timestamp() - 90_000
    os.utime(old, (yesterday, yesterday))
    for path in warehouse(lake) - {str(young)}:  # whatever its age, what the table names stays
        os.utime(path, (yesterday, yesterday))

    assert expire(lake.tables, NAME, LONG_AGO).orphans_removed == 1

    assert young.exists() and not old.exists()
    assert lake.rows("visits", "id")["id"].to_list() == [1]


def test_compaction_that_somebody_outdid_is_decided_anew(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(lake, 3)
    newer = lake.put("visits", 2, visits(20), "v2-bbbbbb")
    real, held = maintain._groups, list[int]()

    def groups(*arguments: object) -> object:
        found = list(real(*arguments))  # type: ignore[arg-type]
        if not held:
            held.append(1)
            lake.plan(9, newer)
        return iter(found)

    monkeypatch.setattr(maintain, "_groups", groups)
    assert compact(lake.tables, NAME, ()).files_after == 1

    assert sorted(lake.rows("visits", "id")["id"]) == [1, 3, 20]


def test_many_commits_that_take_files_away_leave_few_manifests(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintain, "MANIFESTS_MOST", 5)
    for number in range(1, 9):
        frame = people(number, {1: f"a{number}", number: "x"})
        lake.plan(number, lake.put("people", number, frame, OLD, f"{number}.changes.1of1"))
    name = ("silver", "people")
    table = lake.tables.find(name)
    assert table is not None and len(table.current_snapshot().manifests(table.io)) > 5  # type: ignore[union-attr]

    compact(lake.tables, name, ("id",))

    table = lake.tables.find(name)
    assert table is not None and len(table.current_snapshot().manifests(table.io)) <= 5  # type: ignore[union-attr]
    assert lake.rows("people", "id", "name").sort("id")["name"].to_list() == ["a8", *["x"] * 7]


def test_other_engines_are_told_not_to_remove_files(lake: Lake) -> None:
    filled(lake, 1)
    table = lake.tables.find(NAME)
    assert table is not None and table.properties["gc.enabled"] == "false" == PROPERTIES["gc.enabled"]


def test_a_table_is_described_by_its_metadata(lake: Lake) -> None:
    filled(lake, 2)
    compact(lake.tables, NAME, ())

    told = describe(lake.tables, NAME)

    assert (told["rows"], told["files"], told["snapshots"], told["last_plan"]) == (2, 1, 3, "visits/000002")
    assert told["columns"] == {"id": "long", "name": "string", "_stem": "string"}


def test_a_table_that_is_gone_is_told_as_such(lake: Lake) -> None:
    with pytest.raises(TransientFailure, match="no table"):
        describe(lake.tables, ("silver", "nothing"))


def test_a_row_outlives_every_act_of_maintenance_in_any_order(lake: Lake) -> None:
    for number in range(1, 7):
        lake.plan(number, lake.put("visits", number, visits(number)))
        if number % 2:
            compact(lake.tables, NAME, ())
        if number % 3:
            expire(lake.tables, NAME, LATER)
    assert sorted(lake.rows("visits", "id")["id"]) == [1, 2, 3, 4, 5, 6]
    first = Path(lake.tables.place.location(Layer.SILVER, data_key(lake.put("visits", 1, visits(1)).stem, OLD)))
    assert first.exists()
