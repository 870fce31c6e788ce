"""Event datasets: each SILVER object's rows are in the table exactly once, whatever happens and however often."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from acequia.errors import RejectedInput
from acequia.layers import Layer, data_key
from acequia_lakehouse.maintain import compact, expire
from acequia_lakehouse.tables import PLAN, STEM

from .conftest import NEW, OLD, Killed, Lake, die_at, visits

NAME = ("silver", "visits")
LATER = datetime.now(UTC) + timedelta(days=1)


def ids(lake: Lake) -> list[int]:
    return sorted(lake.rows("visits", "id")["id"]) if lake.tables.find(NAME) else []


def paths(lake: Lake) -> list[str]:
    table = lake.tables.find(NAME)
    assert table is not None
    return [file.path for file in lake.tables.files(table)]


def test_silvers_files_are_the_tables_files_and_nothing_is_copied(lake: Lake) -> None:
    one, other = lake.put("visits", 1, visits(1, 2)), lake.put("visits", 2, visits(3))

    document = lake.plan(1, one, other)

    assert (ids(lake), document["registered"], document["copied"]) == ([1, 2, 3], 2, 0)
    assert paths(lake) == [lake.tables.place.location(Layer.SILVER, data_key(o.stem, OLD)) for o in (one, other)]
    table = lake.tables.find(NAME)
    assert table is not None and table.current_snapshot().summary[PLAN] == "visits/000001"  # type: ignore[index, union-attr]
    assert document["snapshot"] == table.current_snapshot().snapshot_id  # type: ignore[union-attr]


def test_a_plan_that_comes_again_commits_nothing_and_says_which_snapshot_it_made(lake: Lake) -> None:
    one = lake.put("visits", 1, visits(1))
    first = lake.plan(1, one)

    again = lake.plan(1, one)

    assert (again["already"], again["rows_added"], again["snapshot"]) == (1, 0, first["snapshot"])
    assert lake.snapshots("visits") == 1


@pytest.mark.parametrize("step", ["lakehouse.after_table"])
def test_killed_between_the_tables_commit_and_the_commit_object_nothing_comes_in_twice(lake: Lake, step: str) -> None:
    one = lake.put("visits", 1, visits(1, 2))
    with pytest.raises(Killed):
        lake.plan(1, one, at=die_at(step))

    lake.plan(1, one)

    assert (ids(lake), lake.snapshots("visits")) == ([1, 2], 1)


def test_after_compaction_and_the_end_of_every_snapshot_a_replay_still_commits_nothing(lake: Lake) -> None:
    objects = [lake.put("visits", number, visits(number, number + 10)) for number in range(1, 4)]
    for number, each in enumerate(objects, 1):
        lake.plan(number, each)
    compact(lake.tables, NAME, ())
    expire(lake.tables, NAME, LATER)
    before = lake.snapshots("visits")

    for number, each in enumerate(objects, 1):
        assert lake.plan(number, each)["already"] == 1
    assert lake.plan(9, *objects)["already"] == 3

    assert ids(lake) == [1, 2, 3, 11, 12, 13]
    assert (before, lake.snapshots("visits")) == (1, 1)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_newer_variant_takes_the_place_of_its_predecessor_in_one_commit(lake: Lake, *, compacted: bool) -> None:
    objects = [lake.put("visits", number, visits(number, name="old")) for number in range(1, 4)]
    lake.plan(1, *objects)
    if compacted:
        compact(lake.tables, NAME, ())
    before = lake.snapshots("visits")

    document = lake.plan(2, lake.put("visits", 2, visits(2, 20, name="new"), NEW))

    assert lake.snapshots("visits") == before + 1
    assert document["replaced"] == [objects[1].name]
    assert dict(lake.rows("visits", "id", "name").iter_rows()) == {1: "old", 2: "new", 20: "new", 3: "old"}


@pytest.mark.parametrize("compacted", [False, True])
def test_an_older_variant_that_comes_late_changes_nothing(lake: Lake, *, compacted: bool) -> None:
    old, other = lake.put("visits", 1, visits(1, name="old")), lake.put("visits", 2, visits(5))
    lake.plan(1, lake.put("visits", 1, visits(1, name="new"), NEW), other)
    if compacted:
        compact(lake.tables, NAME, ())

    document = lake.plan(2, old)

    assert document["older"] == 1
    assert dict(lake.rows("visits", "id", "name").iter_rows()) == {1: "new", 5: "x"}


def test_of_two_that_commit_at_once_neither_undoes_the_other(lake: Lake) -> None:
    one, other = lake.put("visits", 1, visits(1)), lake.put("visits", 2, visits(2))
    lake.plan(1, lake.put("visits", 3, visits(3)))
    held: list[int] = []
    real = lake.tables.files

    def files(*arguments: object, **more: object) -> object:
        """Somebody else commits after this one looked."""
        found = real(*arguments, **more)  # type: ignore[arg-type]
        if not held:
            held.append(1)
            lake.plan(3, one, other)
        return found

    lake.tables.files = files  # type: ignore[method-assign, assignment]
    document = lake.plan(2, one)

    assert (ids(lake), document["already"]) == ([1, 2, 3], 1)


def test_new_columns_and_wider_types_go_to_the_table(lake: Lake) -> None:
    lake.plan(1, lake.put("visits", 1, visits(1).with_columns(pl.col("id").cast(pl.Int32))))

    wider = visits(2**40).with_columns(city=pl.lit("Leon"), paid=pl.lit(Decimal("1.50")))
    document = lake.plan(2, lake.put("visits", 2, wider))

    assert document["columns_added"] == ["city", "id", "paid"]
    assert lake.rows("visits").sort("id").rows() == [(1, "x", None, None), (2**40, "x", "Leon", Decimal("1.50"))]


def test_types_that_a_table_has_not_are_copied_in_types_that_hold_every_value(lake: Lake) -> None:
    frame = pl.DataFrame(
        {
            "id": pl.Series([2**63 + 1], dtype=pl.UInt64),
            "took": pl.Series([timedelta(seconds=2)], dtype=pl.Duration("us")),
            "tags": [["a", "b"]],
            "raw": [b"\x00\xff"],
            "kind": pl.Series(["k"], dtype=pl.Categorical()),
            "at": pl.Series([datetime(2026, 1, 1, tzinfo=UTC)], dtype=pl.Datetime("ns", "UTC")),
        }
    )

    document = lake.plan(1, lake.put("visits", 1, frame))

    assert (document["copied"], document["registered"]) == (1, 0)
    assert lake.rows("visits").rows() == [
        (Decimal(2**63 + 1), 2_000_000, ["a", "b"], b"\x00\xff", "k", datetime(2026, 1, 1, tzinfo=UTC))
    ]


def test_an_object_whose_values_do_not_fit_is_named_and_the_others_come_in(lake: Lake) -> None:
    lake.plan(1, lake.put("visits", 1, visits(1)))
    words = lake.put("visits", 2, visits(0).with_columns(pl.lit("many").alias("id")))
    digits = lake.put("visits", 4, visits(0).with_columns(pl.lit("44").alias("id")))
    broken = lake.put("visits", 5, visits(0))
    Path(lake.tables.place.location(Layer.SILVER, data_key(broken.stem, OLD))).write_bytes(b"no Parquet")

    document = lake.plan(2, words, lake.put("visits", 3, visits(3)), digits, broken)

    assert [s["uri"] for s in document["skipped"]] == [f"s3://silver/{o.name}" for o in (broken, words)]
    assert (ids(lake), document["registered"], document["copied"]) == ([1, 3, 44], 1, 1)


@pytest.mark.parametrize("wrong", ["zeros", "another object", "nothing"])
def test_an_object_that_was_read_wrongly_is_read_again_and_comes_in(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    lake.plan(1, lake.put("visits", 1, visits(1, 11)))
    seen, other = lake.put("visits", 2, visits(2)), lake.put("visits", 3, visits(3, 33))
    path, others = (Path(lake.tables.place.location(Layer.SILVER, data_key(o.stem, OLD))) for o in (seen, other))
    right = path.read_bytes()
    # what a store whose connections are cut gives: zeros, or what was in the same memory before
    path.write_bytes({"zeros": b"\0" * len(right), "another object": others.read_bytes(), "nothing": b""}[wrong])
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_bytes(right))

    document = lake.plan(2, seen)

    assert (document["skipped"], document["registered"], document["rows_added"]) == ([], 1, 1)
    assert ids(lake) == [1, 2, 11]


def test_an_object_with_other_rows_than_were_written_is_named(lake: Lake) -> None:
    lake.plan(1, lake.put("visits", 1, visits(1)))
    fewer = lake.put("visits", 2, visits(2, 22))
    visits(2).write_parquet(lake.tables.place.location(Layer.SILVER, data_key(fewer.stem, OLD)))

    document = lake.plan(2, fewer, lake.put("visits", 3, visits(3)))

    assert [s["reason"] for s in document["skipped"]] == ["it holds 1 rows, and not 2 as when it was written"]
    assert ids(lake) == [1, 3]


def test_a_plan_of_which_nothing_fits_is_rejected_with_the_reason(lake: Lake) -> None:
    lake.plan(1, lake.put("visits", 1, visits(1)))
    words = lake.put("visits", 2, visits(0).with_columns(pl.lit("many").alias("id")))

    with pytest.raises(RejectedInput, match=r"nothing_for_the_table.*do not fit"):
        lake.plan(2, words)
    assert (ids(lake), lake.snapshots("visits")) == ([1], 1)


def test_compacted_rows_say_which_object_they_came_from(lake: Lake) -> None:
    objects = [lake.put("visits", number, visits(number)) for number in (1, 2)]
    lake.plan(1, *objects)
    assert lake.rows("visits", STEM)[STEM].to_list() == [None, None]

    compact(lake.tables, NAME, ())

    assert sorted(lake.rows("visits", STEM)[STEM]) == [o.name for o in objects]
    for each in objects:
        assert pq.read_table(lake.tables.place.location(Layer.SILVER, data_key(each.stem, OLD))).schema.names == [
            "id",
            "name",
        ]


def test_columns_of_lists_evolve_and_read_back(lake: Lake) -> None:
    first = lake.put("visits", 1, visits(1).with_columns(tags=pl.Series([[1]], dtype=pl.List(pl.Int32))))
    second = lake.put("visits", 2, visits(2).with_columns(tags=pl.Series([[2**40]], dtype=pl.List(pl.Int64))))

    lake.plan(1, first)
    lake.plan(2, second)

    assert lake.rows("visits", "id", "tags").sort("id").rows() == [(1, [1]), (2, [2**40])]
    assert pa.types.is_int64(lake.tables.find(NAME).scan().to_arrow().schema.field("tags").type.value_type)  # type: ignore[union-attr]
