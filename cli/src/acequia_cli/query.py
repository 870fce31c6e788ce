"""`acequia query`: SQL over what lies in the store, read while ingestion goes on."""

import asyncio
import contextlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
from duckdb.sqltypes import DuckDBPyType
from rich.console import Console
from rich.table import Table
from rich.text import Text

from acequia.datasets import Registry, load_registry
from acequia.runner import clear_folders, temporary_folder
from acequia_cli.commands import Output
from acequia_cli.complaints import DONE, WrongUse
from acequia_cli.engine import explained, in_thread, open_engine, telling_when_stopped, until_whole
from acequia_cli.plan import plan
from acequia_cli.progress import count
from acequia_cli.relations import Relation, quoted
from acequia_cli.statement import Statement, read_statement
from acequia_cli.stored import Chosen, Installation, SnapshotFiles, reached

NUMBERS = frozenset(
    {
        *("tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger", "ubigint"),
        *("uhugeint", "float", "double", "decimal"),
    }
)
CELL_MOST = 60
"""Characters of a cell of a table on a terminal."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Format(StrEnum):
    """How the rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    NDJSON = "ndjson"
    PARQUET = "parquet"


SUFFIXES = {
    ".csv": Format.CSV,
    ".json": Format.JSON,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".parquet": Format.PARQUET,
}
OPTIONS = {
    Format.CSV: "FORMAT csv, HEADER true",
    Format.JSON: "FORMAT json, ARRAY true",
    Format.NDJSON: "FORMAT json",
    Format.PARQUET: "FORMAT parquet, COMPRESSION zstd",
}


@dataclass(frozen=True, slots=True)
class Query:
    """Run one query and write its rows."""

    chosen: Chosen
    sql: str
    """`-`: it stands on standard input."""
    format: Format | None
    file: Path | None
    as_of: str | None
    rows: int
    """Shown in a table, at most."""
    memory: str

    async def run(self, output: Output) -> int:
        sql = await asyncio.to_thread(sys.stdin.read) if self.sql == "-" else self.sql
        form = self._format()
        statement = read_statement(sql)
        if statement.explains and form is not Format.TABLE:
            raise WrongUse("EXPLAIN gives a plan, no rows: it is shown, and can't be written in another format")
        with telling_when_stopped("stopped: nothing was written"):
            await self._answer(statement, form, output)
        return DONE

    async def _answer(self, statement: Statement, form: Format, output: Output) -> None:
        registry = load_registry()
        async with reached(self.chosen) as installation:
            await asyncio.to_thread(clear_folders, installation.settings.temp_dir)
            await until_whole(lambda: self._attempt(installation, registry, statement, form, output))

    def _format(self) -> Format:
        form = self.format or (SUFFIXES.get(self.file.suffix.lower()) if self.file else Format.TABLE)
        if form is None:
            raise WrongUse(f"say in which --format {self.file} is to be written: {', '.join(map(str, OPTIONS))}")
        if self.file is not None and form is Format.TABLE:
            raise WrongUse(f"a table is for people: choose another --format for {self.file}")
        if self.file is not None and (self.file.is_dir() or not self.file.absolute().parent.is_dir()):
            raise WrongUse(f"{self.file} is a folder" if self.file.is_dir() else f"{self.file}: no such folder")
        if form is Format.PARQUET and self.file is None and sys.stdout.isatty():
            raise WrongUse("parquet is nothing for a terminal: give --output FILE, or send it on with > or |")
        return form

    async def _attempt(
        self, installation: Installation, registry: Registry, statement: Statement, form: Format, output: Output
    ) -> None:
        relations = await plan(installation, registry, None if statement.all_tables else statement.tables, self.as_of)
        files = SnapshotFiles()
        target = _beside(self.file) if self.file and _replaceable(self.file) else None
        with temporary_folder(installation.settings.temp_dir) as temp:
            written = None if form is Format.TABLE else target or Path(temp) / "rows"
            try:
                with open_engine(files, memory=self.memory, temp=Path(temp), writes=written) as engine:
                    answer = _Answer(engine, relations, files, registry, statement)
                    if written is None:
                        shown = await in_thread(engine, lambda: answer.rows(self.rows))
                    else:
                        number = await in_thread(engine, lambda: answer.write(written, form))
                if written is None:
                    shown.print(output.console, statement)
                    return
                await asyncio.to_thread(self._hand_over, written)
                if self.file is not None:
                    _remark(f"{count(number)} row{'' if number == 1 else 's'} in {self.file}")
            finally:
                if target is not None:
                    target.unlink(missing_ok=True)

    def _hand_over(self, written: Path) -> None:
        """The rows are all there: let them be seen."""
        if self.file is None:
            with contextlib.suppress(BrokenPipeError):  # who reads has enough
                with written.open("rb") as rows:
                    shutil.copyfileobj(rows, sys.stdout.buffer, 1 << 20)
                sys.stdout.flush()
                return
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor at the exit
        elif _replaceable(self.file):
            written.replace(self.file.resolve())  # a link stays one
        else:
            with written.open("rb") as rows, self.file.open("wb") as place:
                shutil.copyfileobj(rows, place, 1 << 20)


def _replaceable(file: Path) -> bool:
    """Whether it is a file, or may become one; not a pipe or a device."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        return True


def _beside(file: Path) -> Path:
    real = file.resolve()
    return real.with_name(f".{real.name}.{uuid4().hex[:12]}.part")


def _remark(words: str) -> None:
    sys.stderr.write(f"{words}\n")


@dataclass(frozen=True, slots=True)
class _Answer:
    """One run of the statement. Its methods block."""

    engine: duckdb.DuckDBPyConnection
    relations: Sequence[Relation]
    files: SnapshotFiles
    registry: Registry
    statement: Statement

    def rows(self, most: int) -> "_Rows":
        """The first rows, as text."""
        with explained(self.files):
            self._make_views()
            asked = self._asked()
            if self.statement.explains:
                return _Rows(("plan",), (False,), [(str(row[-1]),) for row in asked.fetchall()], more=False)
            columns, kinds = asked.columns, asked.types
            if not columns:
                return _Rows((), (), [], more=False)
            told = ", ".join(_shown(f"c{n}", kind) for n, kind in enumerate(kinds))
            first = f"SELECT {told} FROM {self._subquery(len(columns))} LIMIT {most + 1}"  # noqa: S608 - the person's own
            found = self.engine.sql(first).fetchall()
        right = tuple(kind.id in NUMBERS for kind in kinds)
        return _Rows(tuple(columns), right, found[:most], more=len(found) > most)

    def write(self, file: Path, form: Format) -> int:
        """All rows to the file; how many."""
        with explained(self.files):
            self._make_views()
            asked = self._asked()
            names, kinds = asked.columns, asked.types
            told = [f"c{n}" if form is Format.PARQUET else _plain(f"c{n}", kind, form) for n, kind in enumerate(kinds)]
            listed = ", ".join(f"{sql} AS {quoted(name)}" for sql, name in zip(told, names, strict=True))
            rows = f"SELECT {listed} FROM {self._subquery(len(names))}"  # noqa: S608 - the person's own
            place = str(file).replace("'", "''")
            result = self.engine.execute(f"COPY ({rows}) TO '{place}' ({OPTIONS[form]}, USE_TMP_FILE false)")
            [number] = result.fetchone() or (0,)
        return int(number)

    def _make_views(self) -> None:
        for relation in self.relations:
            relation.create(self.engine, self.files)

    def _asked(self) -> duckdb.DuckDBPyRelation:
        try:
            return self.engine.sql(self.statement.text)
        except duckdb.CatalogException as error:
            if close := sorted(self.statement.bare & set(self.registry)):
                raise WrongUse(f"there is no table {close[0]}: say bronze.{close[0]} or silver.{close[0]}") from error
            raise

    def _subquery(self, columns: int) -> str:
        return f"(\n{self.statement.text}\n) AS asked({', '.join(f'c{n}' for n in range(columns))})"


# values as text


def _shown(sql: str, kind: DuckDBPyType) -> str:
    """For a person's eye."""
    return f"lower(hex({sql}))" if kind.id == "blob" else f"CAST({sql} AS VARCHAR)"


def _plain(sql: str, kind: DuckDBPyType, form: Format) -> str:
    """As CSV or JSON can hold it: times in ISO 8601, bytes in hexadecimal, what is nested as JSON."""
    value = _jsonable(sql, kind)
    nested = kind.id in ("list", "array", "struct", "map", "union")
    if form is Format.CSV:
        return f"CAST(to_json({value}) AS VARCHAR)" if nested else value
    if kind.id in ("float", "double"):
        return f"CASE WHEN isfinite({sql}) THEN {sql} END"
    return value


def _jsonable(sql: str, kind: DuckDBPyType, depth: int = 0) -> str:
    match kind.id:
        case "blob":
            return f"lower(hex({sql}))"
        case "timestamp with time zone":
            return f"replace(replace(CAST({sql} AS VARCHAR), ' ', 'T'), '+00', 'Z')"
        case "timestamp" | "timestamp_s" | "timestamp_ms" | "timestamp_ns":
            return f"replace(CAST({sql} AS VARCHAR), ' ', 'T')"
        case "list" | "array" | "struct" | "map":
            return _jsonable_nested(sql, kind, depth)
    return sql


def _jsonable_nested(sql: str, kind: DuckDBPyType, depth: int) -> str:
    match kind.id:
        case "struct":
            fields = ", ".join(
                f"{quoted(name)} := {_within(f'{sql}.{quoted(name)}', inner, depth)}" for name, inner in kind.children
            )
            return f"CASE WHEN {sql} IS NOT NULL THEN struct_pack({fields}) END"
        case "map":
            (_, key), (_, inner) = kind.children
            entry = f"v{depth}"
            pair = (
                f"struct_pack(k := {_within(f'{entry}.key', key, depth + 1)}, "
                f"v := {_within(f'{entry}.value', inner, depth + 1)})"
            )
            return f"map_from_entries(list_transform(map_entries({sql}), lambda {entry}: {pair}))"
    [(_, inner), *_] = kind.children
    item = f"v{depth}"
    return f"list_transform({sql}, lambda {item}: {_within(item, inner, depth + 1)})"


def _within(sql: str, kind: object, depth: int) -> str:
    """Inside of what is nested, and so in JSON, which knows no infinity."""
    assert isinstance(kind, DuckDBPyType)  # its children may be numbers, of types that are not nested
    if kind.id in ("float", "double"):
        return f"CASE WHEN isfinite({sql}) THEN {sql} END"
    return _jsonable(sql, kind, depth)


# rows for people


@dataclass(frozen=True, slots=True)
class _Rows:
    columns: tuple[str, ...]
    right: tuple[bool, ...]
    """Whether a column is of numbers."""
    rows: Sequence[Any]
    more: bool
    """Whether there are more than these."""

    def print(self, console: Console, statement: Statement) -> None:
        if statement.explains:
            for (plan,) in self.rows:
                console.print(plan, markup=False, highlight=False, soft_wrap=True)
            return
        cells = [[_cell(value) for value in row] for row in self.rows]
        if not console.is_terminal:  # no line ends where a terminal would
            self._print_table(Console(file=console.file, width=max(1, self._width(cells, None))), cells, None)
        elif self._width(cells, CELL_MOST) <= console.width:
            self._print_table(console, cells, CELL_MOST)
        else:
            self._print_records(console, cells)
        if self.more:
            _remark(
                f"The first {count(len(self.rows))} rows; there are more: --rows shows more of them, "
                "--format csv or --output FILE gives all."
            )
        elif not self.rows:
            _remark("No rows.")

    def _width(self, cells: Sequence[Sequence[Text]], most: int | None) -> int:
        """Columns that the table takes where a cell takes `most`."""
        widest = [_cell(name).cell_len for name in self.columns]
        for row in cells:
            widest = [max(width, cell.cell_len) for width, cell in zip(widest, row, strict=True)]
        return sum(min(width, most) if most else width for width in widest) + 2 * len(widest)

    def _print_table(self, console: Console, cells: Sequence[Sequence[Text]], most: int | None) -> None:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name, right in zip(self.columns, self.right, strict=True):
            table.add_column(
                _cell(name),
                justify="right" if right else "left",
                no_wrap=True,
                max_width=most,
                overflow="ellipsis",
            )
        for row in cells:
            table.add_row(*row)
        console.print(table)

    def _print_records(self, console: Console, cells: Sequence[Sequence[Text]]) -> None:
        widest = max(len(_cell(name).plain) for name in self.columns)
        for number, row in enumerate(cells, 1):
            console.print(Text(f"row {count(number)}", "dim"))
            for name, cell in zip(self.columns, row, strict=True):
                line = Text.assemble((f"  {_cell(name).plain:<{widest}}  ", "bold"), cell)
                console.print(line, soft_wrap=True, highlight=False)


def _cell(value: str | None) -> Text:
    """No control character of the data reaches the terminal."""
    if value is None:
        return Text("null", "dim")
    return Text(_CONTROL.sub(lambda sign: sign[0].encode("unicode_escape").decode(), value))
