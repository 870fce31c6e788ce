"""Event datasets: SILVER's files are the table's files. No row is copied, and none comes in twice.

Whether an object is in the table already is told by the table itself: by the path of a file, or, where rows were
copied (compacted, or stored in types that the table has not), by their `_stem`. Snapshots need not be remembered.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.table import Table

from acequia.layers import Layer, Name
from acequia_lakehouse.given import Given, Order, Report, Skipped, parse_name
from acequia_lakehouse.tables import ACT, PLAN, STEM, Change, LiveFile, Silver, Tables, new_schema, plan_snapshot
from acequia_lakehouse.types import NotParquet, lies_as_taken, taken


@dataclass(frozen=True, slots=True)
class Standing:
    """An object of which the table holds the rows."""

    stem: str
    variant: str
    file: LiveFile
    whole: bool
    """The file is SILVER's own; else it may hold others' rows too."""

    @property
    def name(self) -> str:
        return f"{self.stem}.{self.variant}"


def register(tables: Tables, name: tuple[str, str], given: Sequence[Given], order: Order, plan: str) -> Report:
    """Bring the plan's objects into the table, in one commit. Outdone where somebody else changed it meanwhile."""
    report = Report(".".join(name), rows_in=sum(g.rows or 0 for g in given))
    table = tables.find(name)
    standing = find_standing(tables, table, given) if table is not None else {}
    wanted: list[Given] = []
    for one in given:
        there = [s.variant for s in standing.get(one.stem, ())]
        if one.variant in there:
            report.already += 1
        elif any(order.rank(variant) > order.rank(one.variant) for variant in there):
            report.older += 1
        else:
            wanted.append(one)
    wanted = readable(tables.silver, wanted, report)
    if not wanted:
        report.snapshot = plan_snapshot(table, plan) if table is not None else None
        return report
    if table is None:
        table = tables.find_or_make(name, new_schema(schemas_of(wanted)))
    change = Change(table)
    report.columns_added = change.evolve(schemas_of(wanted))
    came = [one for one in wanted if _bring_in(change, tables.silver, one, report)]
    if not came:
        return report
    report.rows_added = change.rows_added
    outdated = [s for one in came for s in standing.get(one.stem, ())]
    report.replaced = sorted({s.name for s in outdated})
    _take_out(change, outdated)
    report.snapshot = change.commit({PLAN: plan, ACT: "register"})
    return report


def find_standing(tables: Tables, table: Table, given: Sequence[Given]) -> Mapping[str, list[Standing]]:
    """Of each object's stem: which variants of it the table holds."""
    stems = {g.stem for g in given}
    # a `.` follows the stem, and `/` is the character after it
    least, most = f"{min(stems, default='')}.", f"{max(stems, default='')}/"
    found: dict[str, list[Standing]] = defaultdict(list)
    column = table.schema().find_field(STEM)
    change = Change(table)
    for file in tables.files(table):
        key = tables.place.key(Layer.SILVER, file.path)
        if key is not None:
            own = Name.of_key(key)
            if own is not None and str(own.stem) in stems:
                found[str(own.stem)].append(Standing(str(own.stem), own.variant or "", file, whole=True))
        elif file.may_hold(column, least, most):
            for text in pc.unique(change.read(file, [STEM]).column(STEM)).to_pylist():
                stem, variant = parse_name(text or "")
                if stem in stems:
                    found[stem].append(Standing(stem, variant, file, whole=False))
    return found


def readable(silver: Silver, given: Sequence[Given], report: Report) -> list[Given]:
    """Those that are Parquet files with columns that a table can have; the others are told of."""
    found = []
    for one in given:
        try:
            schema = silver.schema(one.location, one.rows)
            taken(schema)
        except (NotParquet, pa.ArrowTypeError) as error:
            report.skipped.append(Skipped(one.uri, str(error)))
        else:
            found.append(one.seen(schema))
    return found


def schemas_of(given: Sequence[Given]) -> list[pa.Schema]:
    """Their columns, each set of them once, in types that a table has."""
    found: list[pa.Schema] = []
    for one in given:
        if one.schema is not None and (schema := taken(one.schema)) not in found:
            found.append(schema)
    return found


def _bring_in(change: Change, silver: Silver, one: Given, report: Report) -> bool:
    assert one.schema is not None
    if lies_as_taken(one.schema) and change.add_file(one.location, one.rows):
        report.registered += 1
        return True
    try:
        change.copy(silver.read(one.location), one.name)
    except (NotParquet, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        report.skipped.append(Skipped(one.uri, f"its values do not fit the table: {reason}"))
        return False
    report.copied += 1
    return True


def _take_out(change: Change, outdated: Sequence[Standing]) -> None:
    """SILVER's own files go whole; from others just the rows go, and the file is written anew."""
    names: dict[LiveFile, list[str]] = defaultdict(list)
    for each in outdated:
        if each.whole:
            change.remove(each.file)
        else:
            names[each.file].append(each.name)
    for file, gone in names.items():
        rows = change.read(file)
        change.remove(file)
        change.write(rows.filter(pc.invert(pc.is_in(rows.column(STEM), pa.array(gone, rows.schema.field(STEM).type)))))
