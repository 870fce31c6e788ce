"""`acequia lake`: the lakehouse's tables, seen and kept in order. The lakehouse does it; this asks it to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from acequia_cli.commands import Output, asked
from acequia_cli.complaints import DONE, CommandFailed
from acequia_cli.connection import Where
from acequia_cli.progress import count
from acequia_cli.times import moment


@dataclass(frozen=True, slots=True)
class ListTables:
    """Rows, files and snapshots of each table."""

    where: Where
    dataset: str | None

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            tables = await connection.api.lake_tables()
        if self.dataset is not None:
            tables = [table for table in tables if table["dataset"] == self.dataset]
            if not tables:
                raise CommandFailed(f"the lakehouse has no table of {self.dataset} yet")
        output.document({"tables": tables})
        if not output.as_json:
            if tables:
                output.console.print(_tables(tables))
            else:
                output.remark("There is no table yet: one is made when the first object of its dataset reaches SILVER.")
        return DONE


def _tables(tables: Sequence[Mapping[str, Any]]) -> Table:
    shown = _grid("table", "rows", "files", "size", "snapshots", "snapshot", "changed (UTC)")
    for table in tables:
        shown.add_row(
            table["table"],
            count(table["rows"]),
            count(table["files"]),
            decimal(table["bytes"]),
            count(table["snapshots"]),
            str(table["snapshot"] or ""),
            str(table["changed_at"] or "")[:19].replace("T", " "),
        )
    return shown


@dataclass(frozen=True, slots=True)
class Compact:
    """Have small files written anew as few."""

    where: Where
    dataset: str | None
    dry_run: bool

    async def run(self, output: Output) -> int:
        async with asked(self.where) as connection:
            done = await connection.api.lake_compact(self.dataset, dry_run=self.dry_run)
        output.document({"dry_run": self.dry_run, "tables": done})
        if not output.as_json:
            _print(output.console, done, ("table", "files_before", "files_after", "rows"))
            fewer = sum(table["files_before"] - table["files_after"] for table in done)
            output.remark(
                f"{count(fewer)} files fewer{_would(self.dry_run)}."
                if fewer
                else "Nothing to do: no table has small files."
            )
        return DONE


@dataclass(frozen=True, slots=True)
class Expire:
    """Have old snapshots forgotten, and files removed that no snapshot names."""

    where: Where
    dataset: str | None
    older_than: str | None
    dry_run: bool

    async def run(self, output: Output) -> int:
        before = moment(self.older_than, datetime.now(UTC)) if self.older_than else None
        async with asked(self.where) as connection:
            done = await connection.api.lake_expire(self.dataset, before, dry_run=self.dry_run)
        output.document({"dry_run": self.dry_run, "tables": done})
        if not output.as_json:
            columns = ("table", "snapshots_before", "snapshots_after", "files_removed", "orphans_removed")
            _print(output.console, done, columns)
            snapshots = sum(table["snapshots_before"] - table["snapshots_after"] for table in done)
            files = sum(table["files_removed"] + table["orphans_removed"] for table in done)
            output.remark(
                f"{count(snapshots)} snapshots and {count(files)} files gone{_would(self.dry_run)}."
                if snapshots or files
                else "Nothing to do: no snapshot is that old."
            )
        return DONE


def _would(dry_run: bool) -> str:
    return ", if it were not for --dry-run" if dry_run else ""


def _print(console: Console, done: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    if not done:
        return
    shown = _grid(*(name.replace("_", " ") for name in columns))
    for table in done:
        shown.add_row(*(value if isinstance(value := table[name], str) else count(value) for name in columns))
    console.print(shown)


def _grid(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
