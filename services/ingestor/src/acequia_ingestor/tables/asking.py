"""The questions that are asked of a table at its source: SQL, made of its description."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from string import Template

from acequia.datasets import Dataset
from acequia.errors import RejectedInput
from acequia_ingestor.tables.columns import TIMES, Layout, SourceColumn, made_by, read_as
from acequia_ingestor.tables.connect import Snapshot, literal, query, quoted
from acequia_ingestor.tables.state import Checkpoint, Identity

OLDEST_VERSION = 130000
SEEN_MOST = 10_000
"""Transactions that a checkpoint remembers one by one. Of more, all their rows are moved again."""
_CYCLE = 2**32
_HAS_XMIN = ("r", "p", "m")

Position = Sequence[str | None]
"""How far a load has come: the cursor (of a load of changes) and the key of its last row, as text."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as one snapshot sees it."""

    dataset: Dataset
    name: str
    """Quoted."""
    columns: tuple[SourceColumn, ...]
    identity: Identity
    timeline: int | None
    has_xmin: bool
    xmin: int
    xmax: int
    at: str
    oldest: str | None
    unique: bool
    """Whether an index of the source's sees to it that no key is there twice."""

    def column(self, name: str) -> SourceColumn:
        """A canonical column. KeyError where the source has none."""
        assert self.dataset.table is not None
        if (own := self.dataset.table.columns.get(name)) is not None:
            return made_by(name, own, self.dataset.schema[name])
        return {column.name: column for column in self.columns}[name]


def relation_name(name: str) -> str:
    """`public.accounts`, quoted. ValueError where that is no name."""
    parts = name.split(".")
    if not all(parts) or len(parts) > 2:
        raise ValueError(f"{name!r} is no relation")
    return ".".join(quoted(part) for part in parts)


def describe(dataset: Dataset, snapshot: Snapshot, oldest: str | None) -> Relation:
    """Look the dataset's table up. `oldest`: when the oldest transaction began that was open before the snapshot.

    RejectedInput (`unknown_table`, `source_too_old`).
    """
    assert dataset.table is not None
    name = relation_name(dataset.table.relation)
    here = {"relation": literal(name)}
    if snapshot.value(f"SELECT to_regclass({literal(name)})::bigint") is None:
        raise RejectedInput(
            "unknown_table",
            f"the source has no table {dataset.table.relation}, or its role may not see the schema (GRANT USAGE)",
        )
    told = snapshot.row(Template(query("relation")).substitute(here))
    if told["version"] < OLDEST_VERSION:
        raise RejectedInput("source_too_old", "the source has to be PostgreSQL 13 or newer")
    cluster = snapshot.row(query("cluster")) if told["may_tell_cluster"] else {"system": None, "timeline": None}
    columns = tuple(
        SourceColumn(
            name=row["name"],
            sql=f"t.{quoted(row['name'])}",
            type=row["type"],
            base=row["base"] if row["known"] and not row["element"] else "",
            element=(row["element"] if row["element_known"] else "?") if row["element"] else "",
            typmod=row["typmod"],
            not_null=row["not_null"],
        )
        for row in snapshot.rows(Template(query("columns")).substitute(here))
    )
    indices: dict[int, set[str]] = {}
    for row in snapshot.rows(Template(query("unique_keys")).substitute(here)):
        indices.setdefault(row["index"], set()).add(row["name"])
    plain = {k for k in dataset.key if k not in dataset.table.columns}
    return Relation(
        dataset=dataset,
        name=name,
        columns=columns,
        identity=Identity(system=cluster["system"], database=told["database"], relation=told["relation"]),
        timeline=cluster["timeline"],
        has_xmin=told["kind"] in _HAS_XMIN,
        xmin=told["xmin"],
        xmax=told["xmax"],
        at=told["at"],
        oldest=oldest,
        unique=any(index <= plain for index in indices.values()),
    )


@dataclass(frozen=True, slots=True)
class Asking:
    """What to ask of a table for one load.

    `since`: the checkpoint whose changes are looked for; None: all rows. `known`: whether what that saw may be taken
    as moved (not of a source whose history has forked since).
    """

    relation: Relation
    since: Checkpoint | None
    known: bool = True
    after: Position | None = None
    """Where an earlier stretch of the load ended."""
    ended: bool = False
    """Whether the load's last part stands: nothing is read any more."""
    began: Checkpoint | None = None
    """What the load's first snapshot saw, where that was an earlier stretch's. Changes made since are left to the next
    load, which looks for them anyway: so a load ends, however fast people write."""

    # columns

    def keys(self) -> list[SourceColumn]:
        return [self.relation.column(name) for name in self.relation.dataset.key]

    def cursor(self) -> SourceColumn | None:
        table = self.relation.dataset.table
        assert table is not None
        return self.relation.column(table.cursor) if table.cursor else None

    def deleted(self) -> str:
        """Whether a row says of itself that it is deleted."""
        table = self.relation.dataset.table
        assert table is not None
        if table.deleted is None:
            return "false"
        column = self.relation.column(table.deleted)
        return f"coalesce({column.sql}, false)" if column.base == "bool" else f"({column.sql} IS NOT NULL)"

    def transaction(self) -> str:
        """The 64-bit number of the transaction that wrote a row: the highest that its 32 bits may stand for.

        A row that is so old that this is wrong counts as younger than it is, and is moved once more; never as older.
        """
        low = self.relation.xmax % _CYCLE
        base = self.relation.xmax - low
        raw = "t.xmin::text::bigint"
        return f"({raw} + CASE WHEN {raw} >= {low} THEN {base - _CYCLE} ELSE {base} END)"

    # predicates

    def candidates(self, since: Checkpoint) -> str:
        """What may have changed since, by its cursor."""
        table = self.relation.dataset.table
        cursor = self.cursor()
        assert table is not None
        if cursor is None or since.base is None or cursor.base not in TIMES:
            return "true"
        reach = f"({literal(since.base)}::{cursor.base} - {interval(table.lag)})"
        recent = f"{cursor.sql} >= {reach}"
        return recent if cursor.not_null else f"({recent} OR {cursor.sql} IS NULL)"

    def wanted(self) -> str:
        """The rows of the load, wherever it has come to."""
        if self.since is None:
            return "true"
        predicates = [self.candidates(self.since)]
        if self.known and (seen := self._seen_by(self.since)) is not None:
            predicates.append(f"NOT ({seen})")
        if self.began is not None and (seen := self._seen_by(self.began)) is not None:
            predicates.append(f"({seen})")
        return " AND ".join(predicates)

    def _seen_by(self, checkpoint: Checkpoint) -> str | None:
        """Whether the checkpoint's snapshot saw a row as it is now. None: that can't be told."""
        if not self.relation.has_xmin or checkpoint.below is None:
            return None
        told = f"{self.transaction()} < {checkpoint.below}"
        if checkpoint.seen:
            told += f" OR {self.transaction()} = ANY('{{{','.join(map(str, checkpoint.seen))}}}'::bigint[])"
        return told

    def order(self) -> list[SourceColumn]:
        cursor = self.cursor() if self.since is not None else None
        return [*([cursor] if cursor else []), *self.keys()]

    def beyond(self, position: Position | None) -> str:
        """Rows after `position` in the load's order."""
        if position is None:
            return "true"
        columns = self.order()
        if len(position) > len(self.keys()) and position[0] is None:
            return f"({columns[0].sql} IS NOT NULL OR {compared(columns[1:], '>', position[1:])})"
        return compared(columns, ">", position)

    def up_to(self, position: Position | None) -> str:
        """Rows not after `position`."""
        if position is None:
            return "true"
        columns = self.order()
        if len(position) > len(self.keys()):
            if position[0] is None:
                return f"({columns[0].sql} IS NULL AND {compared(columns[1:], '<=', position[1:])})"
            return f"({columns[0].sql} IS NULL OR {compared(columns, '<=', position)})"
        return compared(columns, "<=", position)

    def stretch(self, until: Position | None = None) -> str:
        """The rows of this stretch of the load."""
        if self.ended:
            return "false"
        return f"{self.wanted()} AND {self.beyond(self.after)} AND {self.up_to(until)}"

    # questions

    def rows(self, layout: Layout) -> str:
        cursor = self.order()[0].sql + " NULLS FIRST, " if len(self.order()) > len(self.keys()) else ""
        keys = ", ".join(column.sql for column in self.keys())
        return f"{self._select(layout)} FROM {self.relation.name} AS t WHERE {self.stretch()} ORDER BY {cursor}{keys}"

    def _document(self, keys: Sequence[Sequence[str]]) -> str:
        names = self.relation.dataset.key
        return json.dumps([dict(zip(names, key, strict=True)) for key in keys])

    def typed_keys(self, keys: Sequence[Sequence[str]]) -> str:
        """Keys that were given as text, as the columns that they are."""
        typed = ", ".join(f"{quoted(column.name)} {column.type}" for column in self.keys())
        chosen = []
        for column in self.keys():
            plain = replace(column, sql=f"t.{quoted(column.name)}")
            reading, _ = read_as(plain, self.relation.dataset.schema[column.name])
            assert reading is not None
            chosen.append(f"{reading.sql} AS {quoted(reading.name)}")
        document = literal(self._document(keys))
        return f"SELECT {', '.join(chosen)} FROM jsonb_to_recordset({document}::jsonb) AS t ({typed})"

    def rows_of_keys(self, layout: Layout, keys: Sequence[Sequence[str]]) -> str:
        """The rows that have these keys, given as text."""
        typed = ", ".join(f"{quoted(column.name)} {column.type}" for column in self.keys())
        document = self._document(keys)
        same = " AND ".join(f"{column.sql} = k.{quoted(column.name)}" for column in self.keys())
        return (
            f"{self._select(layout)} FROM {self.relation.name} AS t "
            f"JOIN jsonb_to_recordset({literal(document)}::jsonb) AS k ({typed}) ON {same}"
        )

    def all_keys(self) -> str:
        """Each key with the transaction that wrote its row, in no order."""
        chosen = ", ".join(f"{key_text(column)} AS {key_column(n)}" for n, column in enumerate(self.keys()))
        return f"SELECT {chosen}, {self._raw_transaction()} AS _xid FROM {self.relation.name} AS t"

    def _raw_transaction(self) -> str:
        return "t.xmin::text::bigint" if self.relation.has_xmin else "0::bigint"

    def _select(self, layout: Layout) -> str:
        chosen = [f"{reading.sql} AS {quoted(reading.name)}" for reading in layout.readings]
        bad = [
            f"WHEN {reading.unreadable} THEN {literal(reading.name)}"
            for reading in layout.readings
            if reading.unreadable is not None
        ]
        bad += [f"WHEN {c.sql} IS NULL THEN {literal(c.name)}" for c in self.keys() if not c.not_null]
        order = self.order()
        cursor = f"({order[0].sql})::text" if len(order) > len(self.keys()) else "NULL::text"
        chosen += [f"{key_text(column)} AS {key_column(n)}" for n, column in enumerate(self.keys())]
        chosen += [
            f"{self._raw_transaction()} AS _xid",
            f"{cursor} AS _cursor",
            f"{'CASE ' + ' '.join(bad) + ' END' if bad else 'NULL::text'} AS _unreadable",
            f"{self.deleted()} AS _deleted",
        ]
        return f"SELECT {', '.join(chosen)}"

    def count(self, until: Position | None) -> str:
        return f"SELECT count(*) AS n FROM {self.relation.name} AS t WHERE {self.stretch(until)}"

    def duplicates(self) -> str:
        """Of the whole load, so that its first stretch tells before anything of it is put."""
        keys = ", ".join(column.sql for column in self.keys())
        return (
            f"SELECT coalesce(sum(n - 1), 0)::bigint AS n FROM (SELECT count(*) AS n FROM {self.relation.name} AS t "
            f"WHERE {self.wanted()} GROUP BY {keys} HAVING count(*) > 1) AS twice"
        )

    def dangling(self, column: str, target: str, target_column: str) -> str:
        """Rows of the whole load whose `column` names no row of the relation `target`."""
        sql = self.relation.column(column).sql
        return (
            f"SELECT count(*) AS n FROM {self.relation.name} AS t WHERE {self.wanted()} AND {sql} IS NOT NULL "
            f"AND NOT {self.deleted()} "
            f"AND NOT EXISTS (SELECT FROM {target} AS r WHERE r.{quoted(target_column)} = {sql})"
        )

    def age(self) -> str:
        """Seconds since the newest change; null where there is none."""
        cursor = self.cursor()
        assert cursor is not None
        now = {"timestamptz": "now()", "timestamp": "now() AT TIME ZONE 'UTC'"}.get(cursor.base, "now()::timestamp")
        newest = f"CASE WHEN isfinite(max({cursor.sql})) THEN max({cursor.sql}) END"
        return f"SELECT extract(epoch FROM {now} - ({newest}))::float8 AS seconds FROM {self.relation.name} AS t"

    def base(self) -> str:
        """`Checkpoint.base` as of this snapshot."""
        cursor = self.cursor()
        assert cursor is not None
        moments = [self.relation.at, *([self.relation.oldest] if self.relation.oldest else [])]
        zone = "" if cursor.base == "timestamptz" else " AT TIME ZONE 'UTC'"
        given = ", ".join(f"({literal(moment)}::timestamptz{zone})::{cursor.base}" for moment in moments)
        return f"SELECT least(max({cursor.sql}), {given})::text AS base FROM {self.relation.name} AS t"

    def seen(self, base: Checkpoint) -> str:
        """The transactions not below the snapshot's lowest open one whose rows the next load might take for new."""
        return (
            f"SELECT DISTINCT {self.transaction()} AS x FROM {self.relation.name} AS t "
            f"WHERE {self.candidates(base)} AND {self.transaction()} >= {self.relation.xmin} LIMIT {SEEN_MOST + 1}"
        )


def key_column(number: int) -> str:
    """Name of the column that holds a part of the key as text."""
    return f"_key_{number}"


def key_text(column: SourceColumn) -> str:
    """A part of the key as text that reads back as the same value."""
    return f"({column.sql})::text"


def compared(columns: Sequence[SourceColumn], operator: str, values: Sequence[str | None]) -> str:
    left = ", ".join(column.sql for column in columns)
    right = ", ".join(
        f"{literal(value)}::{column.type}" if value is not None else f"NULL::{column.type}"
        for column, value in zip(columns, values, strict=True)
    )
    return f"(({left}) {operator} ({right}))"


def interval(span: timedelta) -> str:
    return f"make_interval(secs => {span.total_seconds()!r})"
