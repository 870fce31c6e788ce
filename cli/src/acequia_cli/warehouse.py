"""`acequia warehouse build`: every table in one DuckDB file, built beside the old one, put in its place once whole."""

import asyncio
import fcntl
import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa

from acequia.datasets import Registry, load_registry
from acequia.runner import clear_folders, temporary_folder
from acequia_cli.commands import Output
from acequia_cli.complaints import DONE, CommandFailed, WrongUse
from acequia_cli.engine import explained, in_thread, open_engine, telling_when_stopped, until_whole
from acequia_cli.plan import plan
from acequia_cli.progress import Tick, count, ticking
from acequia_cli.relations import Relation, quoted, text
from acequia_cli.statement import SCHEMAS
from acequia_cli.stored import Chosen, Files, Installation, SnapshotFiles, reached

MAGIC = b"DUCK"
MAGIC_AT = 8
"""Where a DuckDB file says that it is one."""
BUILT = "acequia.built"
"""The table that says what was built, when, and from what: a file that has it may be replaced."""
UNFINISHED = ".part"


@dataclass(frozen=True, slots=True)
class Build:
    """Build the file anew from what is in the store now."""

    chosen: Chosen
    file: Path
    only: Sequence[str]
    """Tables (`bronze.accounts`), or all of a schema (`silver`)."""
    as_of: str | None
    replace: bool
    """Also where the file is not one of ours."""
    memory: str

    async def run(self, output: Output) -> int:
        file = self.file.absolute()
        if not file.parent.is_dir():
            raise WrongUse(f"{self.file}: no such folder")
        await asyncio.to_thread(_check_replaceable, self.file, self.replace)
        asked = _asked(self.only)
        with telling_when_stopped(f"stopped: {self.file} is as it was"):
            built = await self._build(file, asked)
        size = file.stat().st_size
        output.document({"file": str(file), "bytes": size, "tables": built})
        if not output.as_json:
            rows = sum(table["rows"] for table in built)
            output.remark(f"{count(len(built))} tables, {count(rows)} rows in {self.file} ({size / 1e6:,.1f} MB)")
        return DONE

    async def _build(self, file: Path, asked: Sequence[tuple[str, str]] | None) -> list[dict[str, Any]]:
        registry = load_registry()
        async with reached(self.chosen) as installation:
            await asyncio.to_thread(clear_folders, installation.settings.temp_dir)
            await asyncio.to_thread(_clear, file.resolve())
            return await until_whole(lambda: self._attempt(installation, registry, asked, file))

    async def _attempt(
        self, installation: Installation, registry: Registry, asked: Sequence[tuple[str, str]] | None, file: Path
    ) -> list[dict[str, Any]]:
        now = datetime.now(UTC)
        wanted = None if asked is None or ("silver", "") in asked else _spelled_out(asked, registry)
        relations = await plan(installation, registry, wanted, self.as_of)
        if asked is not None:
            relations = [r for r in relations if (r.schema, r.name) in asked or (r.schema, "") in asked]
        files = SnapshotFiles()
        # below the real name: a link to a warehouse stays one
        real = file.resolve()
        beside = real.with_name(f".{real.name}.{uuid4().hex[:12]}{UNFINISHED}")
        try:
            with (
                temporary_folder(installation.settings.temp_dir) as temp,
                ticking() as tick,
                open_engine(files, memory=self.memory, temp=Path(temp), database=beside) as engine,
            ):
                work = partial(_fill, engine, files, relations, now, tick)
                built = await in_thread(engine, work)
            await asyncio.to_thread(_put, beside, real)
        finally:
            for left in (beside, beside.with_name(f"{beside.name}.wal")):
                left.unlink(missing_ok=True)
        return built


def _asked(only: Sequence[str]) -> list[tuple[str, str]] | None:
    """Schema and table; a schema alone has an empty table."""
    found = []
    for name in only:
        schema, _, table = name.lower().partition(".")
        if schema not in SCHEMAS:
            raise WrongUse(f"--only {name}: say bronze or silver, or one table of it, for instance bronze.sensor_data")
        found.append((schema, table))
    return found or None


def _spelled_out(asked: Sequence[tuple[str, str]], registry: Registry) -> list[tuple[str, str]]:
    """Without `bronze` as a whole: what is in it is known without a catalog."""
    whole = [("bronze", name) for name in registry] if ("bronze", "") in asked else []
    return sorted({*whole, *((schema, name) for schema, name in asked if name)})


def _fill(
    engine: duckdb.DuckDBPyConnection, files: SnapshotFiles, relations: Sequence[Relation], now: datetime, tick: Tick
) -> list[dict[str, Any]]:
    """Copy each relation into a table of the file; what was built."""
    built = []
    with explained(files):
        engine.execute("CREATE SCHEMA acequia")
        engine.execute(
            f"CREATE TABLE {BUILT} (schema_name VARCHAR, table_name VARCHAR, rows BIGINT, files BIGINT, "
            "snapshot BIGINT, built_at TIMESTAMPTZ)"
        )
        for relation in relations:
            number = 0 if relation.files is None else len(relation.files)
            tick(relation.full_name, f"{count(number)} files")
            rows = _copy(engine, files, relation)
            tick(relation.full_name, f"{count(rows)} rows")
            about = [relation.schema, relation.name, rows, number, relation.snapshot, now]
            engine.execute(f"INSERT INTO {BUILT} VALUES (?, ?, ?, ?, ?, ?)", about)  # noqa: S608 - no value is in it
            built.append(
                {
                    "table": relation.full_name,
                    "rows": rows,
                    "files": number,
                    "snapshot": relation.snapshot,
                }
            )
        engine.execute("CHECKPOINT")
    return built


def _copy(engine: duckdb.DuckDBPyConnection, files: SnapshotFiles, relation: Relation) -> int:
    select = relation.select(engine, files)
    table = f"{relation.schema}.{quoted(relation.name)}"
    engine.execute(f"CREATE SCHEMA IF NOT EXISTS {relation.schema}")
    [rows] = engine.execute(f"CREATE TABLE {table} AS {select}").fetchone() or (0,)
    return int(rows)


def _clear(file: Path) -> None:
    """Remove what builds left that were killed: DuckDB holds a lock on the file of one that lives."""
    for left in file.parent.glob(f".{glob.escape(file.name)}.*{UNFINISHED}"):
        with suppress(OSError), left.open("r+b") as unfinished:
            fcntl.lockf(unfinished, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
            left.with_name(f"{left.name}.wal").unlink(missing_ok=True)


def _put(beside: Path, file: Path) -> None:
    """Let it be the warehouse: on the disk first, then under its name. Who reads the old one goes on with that."""
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    _check_unused(file)
    beside.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_unused(file: Path) -> None:
    """CommandFailed where changes lie beside the file that are not in it yet: they would be taken for the new one's."""
    if (log := file.with_name(f"{file.name}.wal")).exists():
        raise CommandFailed(f"somebody writes, or wrote, into {file}: {log.name} lies beside it, so it stays as it is")


def _check_replaceable(file: Path, replace: bool) -> None:
    """WrongUse where something lies there that was not built by this command."""
    if file.is_dir():
        raise WrongUse(f"{file} is a folder: name a file in it, for instance {file}/warehouse.duckdb")
    _check_unused(file)
    if replace or not file.exists() or not file.stat().st_size:
        return
    with file.open("rb") as content:
        head = content.read(MAGIC_AT + len(MAGIC))
    if head[MAGIC_AT:] != MAGIC or not _is_ours(file):
        raise WrongUse(f"{file} was not built by this command: name another file, or replace it with --replace")


def _is_ours(file: Path) -> bool:
    """Read through the file system of queries, which takes no lock: somebody may have it open for writing."""
    files = SnapshotFiles()
    pattern = files.add("a/warehouse", Files({file.name: file.stat().st_size}, lambda _: pa.OSFile(str(file))))
    schema, _, table = BUILT.partition(".")
    with duckdb.connect() as engine:
        engine.register_filesystem(files)
        try:
            engine.execute(f"ATTACH {text(pattern.replace('**', file.name))} AS old (READ_ONLY)")
        except duckdb.Error:
            return False  # of a version that this one can't read
        known = (
            "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'old' AND schema_name = ? AND table_name = ?"
        )
        return engine.execute(known, [schema, table]).fetchone() == (1,)
