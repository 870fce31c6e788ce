"""Table datasets: the newest row of each key is what readers see, in whatever order rows, deletions and loads come."""

from itertools import permutations
from pathlib import Path

import polars as pl
import pytest

from acequia.layers import Stem, manifest_key
from acequia_lakehouse.maintain import compact
from acequia_lakehouse.merge import FLOOR

from .conftest import NEW, OLD, Killed, Lake, Object, die_at, open_lake, people, version, visits

NAME = ("silver", "people")
GRAVES = ("silver_internal", "people")


def names(lake: Lake) -> dict[int, str]:
    if lake.tables.find(NAME) is None:
        return {}
    return dict(lake.rows("people", "id", "name").sort("id").iter_rows())


def changes(lake: Lake, load: int, rows: dict[int, str | None], variant: str = OLD) -> Object:
    return lake.put("people", load, people(load, rows), variant, f"{load}.changes.1of1")


def full(lake: Lake, load: int, *parts: dict[int, str | None]) -> list[Object]:
    """The parts of a full load; only the last knows how many there are."""
    return [
        lake.put(
            "people",
            load,
            people(load, rows, number),
            OLD,
            f"{load}.full.{number}" + (f"of{len(parts)}" if number == len(parts) else ""),
            number,
        )
        for number, rows in enumerate(parts, 1)
    ]


def test_rows_are_new_changed_and_gone_and_readers_see_no_deleted_row(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "ana", 2: "ben", 3: "cho"}))

    document = lake.plan(2, changes(lake, 2, {1: "anna", 2: None, 4: "dan"}))

    assert names(lake) == {1: "anna", 3: "cho", 4: "dan"}
    assert (document["rows_updated"], document["rows_deleted"], document["rows_added"]) == (1, 1, 2)
    assert lake.rows("people").columns == ["id", "name", "_version"]
    assert lake.snapshots("people") == 2


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_order_in_which_loads_come_does_not_matter(lake: Lake, order: tuple[int, ...]) -> None:
    loads = [
        full(lake, 1, {1: "a1", 2: "b1", 3: "c1"}),
        [changes(lake, 2, {1: "a2", 2: None})],
        [changes(lake, 3, {1: None, 4: "d3"})],
        [changes(lake, 4, {2: "b4"})],
    ]

    for number, place in enumerate(order, 1):
        lake.plan(number, *loads[place])

    assert names(lake) == {2: "b4", 3: "c1", 4: "d3"}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_full_load_replaces_what_is_older_and_leaves_what_is_newer(lake: Lake, order: tuple[int, ...]) -> None:
    lake.plan(1, *full(lake, 1, {1: "a1", 2: "b1", 9: "gone at the source"}))
    loads = [
        [changes(lake, 2, {1: "a2", 7: "g2"})],
        full(lake, 3, {1: "a3", 2: "b3"}, {5: "e3"}),
        [changes(lake, 4, {2: None, 8: "h4"})],
    ]

    for number, place in enumerate(order, 2):
        lake.plan(number, *loads[place])

    assert names(lake) == {1: "a3", 5: "e3", 8: "h4"}


def test_the_table_is_as_it_was_until_the_last_part_of_a_full_load_is_there(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "a"}))
    first, second, third = full(lake, 2, {1: "A"}, {2: "B"}, {3: "C"})

    staged = lake.plan(2, third)
    assert staged["loads"] == [{"number": 2, "state": "staged", "parts": 3, "missing": [1, 2], "rejected": []}]
    assert names(lake) == {1: "a"}
    assert lake.plan(3, first, window=[third])["loads"][0]["missing"] == [2]
    assert (names(lake), lake.snapshots("people")) == ({1: "a"}, 1)

    document = lake.plan(4, second, window=[first, third])

    assert document["loads"] == [{"number": 2, "state": "replaced", "parts": 3, "missing": []}]
    assert (names(lake), lake.snapshots("people")) == ({1: "A", 2: "B", 3: "C"}, 2)


def test_a_full_load_of_no_row_empties_the_table_and_what_later_loads_bring_stays(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "a", 2: "b"}))

    document = lake.plan(2, *full(lake, 2, {}))

    assert document["loads"] == [{"number": 2, "state": "replaced", "parts": 1, "missing": []}]
    assert names(lake) == {}
    lake.plan(3, changes(lake, 3, {2: "B"}))
    lake.plan(4, changes(lake, 1, {1: "late"}))
    assert names(lake) == {2: "B"}


def test_a_part_that_was_rejected_means_no_replacement_and_the_commit_object_says_so(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "a"}))
    first, _, third = full(lake, 2, {1: "A"}, {2: "B"}, {3: "C"})
    rejected = Stem("people", first.stem.at, first.stem.id, 2)
    lake.rejected.add(manifest_key("transformer", rejected, OLD))

    document = lake.plan(2, first, third)

    assert document["loads"] == [{"number": 2, "state": "staged", "parts": 3, "missing": [2], "rejected": [2]}]
    assert names(lake) == {1: "a"}


def test_parts_of_a_load_that_the_table_has_left_behind_do_no_harm(lake: Lake) -> None:
    first, second = full(lake, 1, {1: "old"}, {2: "old"})
    lake.plan(1, first)
    lake.plan(2, *full(lake, 2, {1: "new"}))

    document = lake.plan(3, second, window=[first])
    late = lake.plan(4, changes(lake, 1, {5: "late"}))

    assert (document["loads"][0]["state"], document["older"]) == ("older", 2)
    assert (names(lake), late["rows_outdated"]) == ({1: "new"}, 1)


def test_a_full_load_that_comes_again_is_not_written_again(lake: Lake) -> None:
    parts = full(lake, 3, {1: "a"}, {2: "b"})
    lake.plan(1, *parts)

    document = lake.plan(2, *parts)

    assert (document["loads"][0]["state"], lake.snapshots("people")) == ("stands", 1)


def test_the_same_load_in_a_newer_variant_replaces_itself_and_in_an_older_one_does_not(lake: Lake) -> None:
    old = lake.put("people", 1, people(1, {1: "old", 2: "x"}), OLD, "1.full.1of1")
    new = lake.put("people", 1, people(1, {1: "new"}), NEW, "1.full.1of1")
    lake.plan(1, old)

    lake.plan(2, new)
    assert names(lake) == {1: "new"}
    assert lake.plan(3, old)["loads"][0]["state"] == "stands"
    assert names(lake) == {1: "new"}


def test_of_one_version_the_newer_variant_counts_also_when_the_older_comes_late(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "a"}))
    lake.plan(2, changes(lake, 2, {1: "new"}, NEW))

    lake.plan(3, changes(lake, 2, {1: "old"}, OLD))
    assert names(lake) == {1: "new"}


def test_keys_in_two_parts_of_a_full_load_are_one_row(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "first", 2: "b"}, {1: "second", 3: "c"}))

    assert names(lake) == {1: "second", 2: "b", 3: "c"}


@pytest.mark.parametrize("step", ["lakehouse.after_tombstones", "lakehouse.after_files", "lakehouse.after_table"])
@pytest.mark.parametrize("between", [False, True])
def test_killed_at_any_step_a_plan_is_carried_out_as_if_nothing_had_happened(
    lake: Lake, step: str, *, between: bool
) -> None:
    lake.plan(1, *full(lake, 1, {1: "a", 2: "b", 3: "c"}))
    late = changes(lake, 2, {2: "older than the deletion", 3: "c2"})
    deleting = changes(lake, 3, {2: None, 1: "a3"})
    with pytest.raises(Killed):
        lake.plan(3, deleting, at=die_at(step))

    if between:
        lake.plan(2, late)
        lake.plan(3, deleting)
    else:
        lake.plan(3, deleting)
        lake.plan(2, late)

    assert names(lake) == {1: "a3", 3: "c2"}


def test_a_plan_that_comes_again_after_its_snapshot_expired_changes_no_row(lake: Lake) -> None:
    first = full(lake, 1, {1: "a", 2: "b"})
    second = changes(lake, 2, {1: "a2", 2: None})
    lake.plan(1, *first)
    lake.plan(2, second)
    compact(lake.tables, NAME, ("id",))
    before = lake.rows("people")

    document = lake.plan(2, second)

    assert (document["rows_added"], document["rows_updated"], document["rows_deleted"]) == (0, 0, 0)
    assert lake.rows("people").equals(before)


def test_who_looked_before_a_key_was_buried_does_not_bring_its_older_row_back(lake: Lake) -> None:
    """It read the tombstones, then the deletion came: its commit is outdone, though the deletion changed no row."""
    lake.plan(1, *full(lake, 1, {1: "a"}))
    older, deletion = changes(lake, 2, {7: "older"}), changes(lake, 3, {7: None})
    held: list[int] = []

    def meanwhile(step: str) -> None:
        if step == "lakehouse.after_files" and not held:
            held.append(1)
            lake.plan(3, deletion)

    lake.plan(2, older, at=meanwhile)

    assert held and names(lake) == {1: "a"}


def test_a_column_that_came_later_is_null_in_older_rows_and_a_wider_type_holds_both(lake: Lake) -> None:
    narrow = people(1, {1: "a"}).with_columns(pl.lit(5, pl.Int32).alias("age"))
    lake.plan(1, lake.put("people", 1, narrow, OLD, "1.full.1of1"))
    wide = people(2, {2: "b"}).with_columns(pl.lit(2**40).alias("age"), pl.lit("Leon").alias("city"))

    document = lake.plan(2, lake.put("people", 2, wide, OLD, "2.changes.1of1"))

    assert document["columns_added"] == ["age", "city"]
    frame = lake.rows("people", "id", "age", "city").sort("id")
    assert frame.rows() == [(1, 5, None), (2, 2**40, "Leon")]


def test_an_object_that_can_not_be_merged_is_named_and_the_others_are_merged(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, {1: "a"}))
    no_version = lake.put("people", 2, visits(3), OLD, "2.changes.1of1")
    odd = people(3, {4: None}).with_columns(pl.lit("forty").alias("id"))
    no_key = lake.put("people", 3, odd, OLD, "3.changes.1of1")

    document = lake.plan(2, no_version, no_key, changes(lake, 4, {2: "b"}))

    assert {s["uri"] for s in document["skipped"]} == {f"s3://silver/{o.name}" for o in (no_version, no_key)}
    assert names(lake) == {1: "a", 2: "b"}


def test_keys_of_several_columns_and_of_text_are_compared_whole(tmp_path: Path) -> None:
    from acequia.datasets import Registry

    from . import conftest

    lake = open_lake(tmp_path)
    pairs = conftest.dataset("people", ("id", "name"))
    before, conftest.REGISTRY = conftest.REGISTRY, Registry({"people": pairs})
    try:
        frame = people(1, {1: "a", 2: "a"}).with_columns(role=pl.lit("x"))
        lake.plan(1, lake.put("people", 1, frame, OLD, "1.full.1of1"))
        gone = people(2, {1: "a"}).with_columns(pl.lit(value=True).alias("_deleted"), role=pl.lit(None, pl.String))
        new = people(2, {2: "b"}).with_columns(role=pl.lit("y"))
        lake.plan(2, lake.put("people", 2, pl.concat([gone, new]), OLD, "2.changes.1of1"))
    finally:
        conftest.REGISTRY = before
    assert lake.rows("people", "id", "name", "role").sort("id", "name").rows() == [(2, "a", "x"), (2, "b", "y")]


def test_tombstones_are_kept_in_few_files_and_the_floor_in_the_table(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, dict.fromkeys(range(5), "x")))
    for number in range(3):
        lake.plan(number + 2, changes(lake, number + 2, {number: None}))
    assert compact(lake.tables, GRAVES, ("id",)).files_after == 1

    lake.plan(9, changes(lake, 1, {0: "older"}))

    assert names(lake) == {3: "x", 4: "x"}
    table = lake.tables.find(NAME)
    assert table is not None and table.properties[FLOOR] == f'{{"load": 1, "variants": ["{OLD}"]}}'


def test_tombstones_that_a_full_load_made_history_go_with_the_next_compaction(lake: Lake) -> None:
    for number in range(1, 4):
        lake.plan(number, changes(lake, number, {number: None}))
    lake.plan(4, *full(lake, 4, {1: "back"}))
    lake.plan(5, changes(lake, 5, {7: None}))

    compact(lake.tables, GRAVES, ("id",))

    table = lake.tables.find(GRAVES)
    assert table is not None and table.scan().to_arrow().column("id").to_pylist() == [7]
    lake.plan(6, changes(lake, 2, {2: "from before the full load"}))
    assert names(lake) == {1: "back"}


def test_merge_after_merge_the_table_has_as_few_files_as_before(lake: Lake) -> None:
    lake.plan(1, *full(lake, 1, dict.fromkeys(range(50), "x")))
    for load in range(2, 12):
        lake.plan(load, changes(lake, load, {load: f"{load}", load * 4: f"{load}", 100 + load: "new"}))

    table = lake.tables.find(NAME)
    assert table is not None and len(lake.tables.files(table)) <= 2
    assert len(names(lake)) == 60 and names(lake)[44] == "11"


def test_of_tombstones_of_one_version_compaction_keeps_each_variants(lake: Lake) -> None:
    lake.written = (NEW, "v9-cccccc", "v10-dddddd")
    lake.plan(1, changes(lake, 1, {1: None}, NEW))
    lake.plan(2, changes(lake, 1, {1: None}, "v10-dddddd"))
    lake.plan(3, changes(lake, 2, {3: None}))
    compact(lake.tables, GRAVES, ("id",))

    lake.plan(4, changes(lake, 1, {1: "of an older variant"}, "v9-cccccc"))

    assert names(lake) == {}


def test_a_thousand_changes_among_many_rows_change_just_those(tmp_path: Path) -> None:
    lake = open_lake(tmp_path, file_rows=20_000)
    parts = []
    for number in range(1, 11):
        start = (number - 1) * 20_000
        frame = pl.DataFrame(
            {
                "id": range(start, start + 20_000),
                "name": ["x" * 20] * 20_000,
                "_version": [version(1, number)] * 20_000,
                "_deleted": [False] * 20_000,
            }
        )
        parts.append(lake.put("people", 1, frame, OLD, f"1.full.{number}" + ("of10" if number == 10 else ""), number))
    lake.plan(1, *parts)
    some = dict.fromkeys(range(0, 200_000, 200), "changed")
    changed = changes(lake, 2, some)

    document = lake.plan(2, changed)

    assert (document["rows_updated"], document["rows_added"]) == (1000, 1000)
    frame = lake.rows("people", "id", "name")
    assert (frame.height, frame["id"].n_unique()) == (200_000, 200_000)
    assert frame.filter(pl.col("name") == "changed").height == 1000
