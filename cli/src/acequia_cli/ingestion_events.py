"""The list that a predecessor kept of its ingestions: a table of PostgreSQL, whatever its columns are called.

It is read once, in one read-only snapshot, into a file beside: memory does not grow with its rows.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg

from acequia_cli.complaints import CommandFailed, WrongUse

KNOWN_AS: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "event_id", "ingestion_id", "ingestion_event_id"),
    "name": (
        *("nombre_archivo", "archivo", "file_name", "filename", "file", "object_name", "object_key", "object"),
        *("key", "name", "nombre"),
    ),
    "path": ("ruta_minio", "ruta", "object_path", "file_path", "path", "s3_path", "s3_uri", "uri", "location"),
    "bucket": ("bucket", "bucket_name", "nombre_bucket"),
    "rows": (
        *("num_registros", "numero_registros", "registros", "filas", "num_filas", "rows", "row_count", "num_rows"),
        *("record_count", "records_count", "num_records", "records"),
    ),
    "status": ("estado", "status", "state"),
    "at": (
        *("timestamp_ingesta", "fecha_ingesta", "ingested_at", "ingestion_time", "ingestion_timestamp", "created_at"),
        *("processed_at", "event_time", "timestamp", "ts", "fecha"),
    ),
}
"""What a row says, and what columns are called that say it; the first that is there is taken."""
MEANINGS: Mapping[str, str] = {"at": "when it was ingested", "name": "the file's name"}
PREFETCH = 1000
_COLUMNS = """
SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_OF_PATH = """
SELECT n, id, name, path, rows, status, at FROM list
WHERE NOT taken AND path = :it
ORDER BY at DESC, n DESC LIMIT 1
"""
_OF_NAME = """
SELECT n, id, name, path, rows, status, at FROM list
WHERE NOT taken AND name = :it AND (
    path IS NULL OR substr(path, 1, instr(path, '/') - 1) NOT IN (SELECT value FROM json_each(:sources))
)
ORDER BY at DESC, n DESC LIMIT 1
"""
_LEFT = "SELECT n, id, name, path, rows, status, at FROM list WHERE NOT taken ORDER BY n"
_IS_OURS = "SELECT obj_description($1::regclass, 'pg_class') LIKE 'acequia:%'"


@dataclass(frozen=True, slots=True)
class Row:
    """One ingestion, as the list tells it. `path`: bucket/key."""

    id: str | None
    name: str | None
    path: str | None
    rows: int | None
    status: str | None
    at: datetime
    n: int | None = field(default=None, compare=False)
    """Its place in the list."""

    def document(self) -> dict[str, Any]:
        said = {"id": self.id, "name": self.name, "path": self.path, "rows": self.rows, "status": self.status}
        return {name: value for name, value in said.items() if value is not None} | {"at": self.at.isoformat()}


def parse_columns(text: str | None) -> dict[str, str]:
    """`name=archivo,at=creado`. WrongUse where it says anything else."""
    given: dict[str, str] = {}
    for pair in (text or "").split(","):
        if not pair.strip():
            continue
        what, sign, column = (part.strip() for part in pair.partition("="))
        if what not in KNOWN_AS or not sign or not column:
            raise WrongUse(f"--columns: {pair.strip()!r} is not one of {', '.join(f'{k}=COLUMN' for k in KNOWN_AS)}")
        given[what] = column
    return given


def choose_columns(table: str, there: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Which column says what. WrongUse, with what is there, where a needed one is not."""
    listed = f"{table} has the columns {', '.join(there)}"
    if unknown := [column for column in given.values() if column not in there]:
        raise WrongUse(f"{listed}; --columns names {', '.join(unknown)}")
    lowered = {column.lower(): column for column in reversed(there)}
    chosen = dict(given)
    for what, names in KNOWN_AS.items():
        found = (lowered[name] for name in names if name in lowered and lowered[name] not in chosen.values())
        if what not in chosen and (column := next(found, None)) is not None:
            chosen[what] = column
    missing = [what for what in MEANINGS if what not in chosen and not (what == "name" and "path" in chosen)]
    if missing:
        said = " and ".join(MEANINGS[what] for what in missing)
        how = ",".join(f"{what}=COLUMN" for what in missing)
        raise WrongUse(f"{listed}; none of them is known to say {said}: name it, --columns {how}")
    return {what: chosen[what] for what in KNOWN_AS if what in chosen}


class IngestionList:
    """The list's rows in a file, each found by its path or its name, once."""

    def __init__(self, folder: Path, zone: ZoneInfo, buckets: Sequence[str] = ()) -> None:
        """`buckets`: those that files are taken from."""
        self._zone = zone
        self._sources = json.dumps(buckets)
        self._file = sqlite3.connect(folder / "list.sqlite", isolation_level=None)
        self._file.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE list (n INTEGER PRIMARY KEY, id, name, path, rows, status, at, taken DEFAULT 0);"
            "CREATE INDEX by_path ON list (path); CREATE INDEX by_name ON list (name);"
        )
        self.columns: dict[str, str] = {}
        self.read = 0
        self.of_files = 0
        """Rows whose file was found and is taken over."""
        self.skipped: Counter[str] = Counter()

    def close(self) -> None:
        self._file.close()

    async def load(self, url: str, table: str, given: Mapping[str, str]) -> None:
        """Read the table. Raises Complaint: it can't be reached, it is not there, it is Acequia's own view."""
        try:
            connection = await asyncpg.connect(url, timeout=30, server_settings={"application_name": "acequia import"})
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            raise CommandFailed(f"--database: the database can't be reached: {error}") from error
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for batch in self._batches(connection, table, given):
                    self._add(batch)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise CommandFailed(f"{table} can't be read: {error}") from error
        finally:
            await connection.close(timeout=5)

    async def _batches(
        self, connection: "asyncpg.Connection[asyncpg.Record]", table: str, given: Mapping[str, str]
    ) -> AsyncIterator[list[asyncpg.Record]]:
        relation = ".".join(_quoted(part) for part in table.split("."))
        if await connection.fetchval("SELECT to_regclass($1)", relation) is None:
            raise WrongUse(f"there is no table {table} in this database: name it with --table schema.table")
        if await connection.fetchval(_IS_OURS, relation):
            raise WrongUse(f"{table} is the view that Acequia itself offers: name the predecessors' table with --table")
        there = [row["attname"] for row in await connection.fetch(_COLUMNS, relation)]
        self.columns = choose_columns(table, there, given)
        said = ", ".join(f"{_quoted(column)} AS {what}" for what, column in self.columns.items())
        order = ", ".join(_quoted(self.columns[what]) for what in ("at", "id") if what in self.columns)
        batch = []
        query = f"SELECT {said} FROM {relation} ORDER BY {order}"  # noqa: S608 - names of the catalog's, quoted
        async for row in connection.cursor(query, prefetch=PREFETCH):
            batch.append(row)
            if len(batch) == PREFETCH:
                yield batch
                batch = []
        yield batch

    def _add(self, batch: Sequence[asyncpg.Record]) -> None:
        rows = []
        for record in batch:
            self.read += 1
            row = read_row(dict(record), self._zone)
            if isinstance(row, str):
                self.skipped[row] += 1
            else:
                rows.append((row.id, row.name, row.path, row.rows, row.status, row.at.isoformat()))
        insert = "INSERT INTO list (id, name, path, rows, status, at) VALUES (?, ?, ?, ?, ?, ?)"
        self._file.execute("BEGIN")
        self._file.executemany(insert, rows)
        self._file.execute("COMMIT")

    def take(self, path: str, name: str) -> Row | None:
        """The newest row of a file that no other has taken: of its path; else of its name, where the row's own path
        lies in none of the sources."""
        for query, more in ((_OF_PATH, path), (_OF_NAME, name)):
            found = self._file.execute(query, {"it": more, "sources": self._sources}).fetchone()
            if found:
                self._file.execute("UPDATE list SET taken = 1 WHERE n = ?", found[:1])
                self.of_files += 1
                return _row(found)
        return None

    def give_back(self, row: Row) -> None:
        """The file that took this row was not taken over."""
        self._file.execute("UPDATE list SET taken = 0 WHERE n = ?", (row.n,))
        self.of_files -= 1

    def left(self) -> Iterator[Row]:
        """Rows that no file took, the oldest first."""
        for found in self._file.execute(_LEFT):
            yield _row(found)


def _row(found: Sequence[Any]) -> Row:
    n, id, name, path, rows, status, at = found
    return Row(id, name, path, rows, status, datetime.fromisoformat(at), n)


def read_row(record: Mapping[str, Any], zone: ZoneInfo) -> Row | str:
    """A row of the list; or why it says too little."""
    if (at := _time(record.get("at"), zone)) is None:
        return "no time"
    name, path = _text(record.get("name")), _text(record.get("path"))
    bucket = _text(record.get("bucket"))
    if path:
        path = path.partition("://")[2] or path
        path = path.lstrip("/")
    elif bucket and name:
        path = f"{bucket}/{name.lstrip('/')}"
    if bucket and path and not path.startswith(f"{bucket}/"):
        path = f"{bucket}/{path}"
    name = (name or path or "").rstrip("/").rpartition("/")[2]
    if not name:
        return "no name"
    rows = _text(record.get("rows"))
    number = int(float(rows)) if rows and rows.replace(".", "", 1).isdecimal() else None
    return Row(_text(record.get("id")), name, path, number, _text(record.get("status")), at)


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None


def _time(value: object, zone: ZoneInfo) -> datetime | None:
    """In UTC. A time without a zone is one of `zone`; a number counts seconds since 1970."""
    try:
        match value:
            case datetime():
                at = value
            case date():
                at = datetime.combine(value, time())
            case str():
                at = datetime.fromisoformat(value.strip())
            case int() | float():
                at = datetime.fromtimestamp(value, UTC)
            case _:
                return None
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _quoted(name: str) -> str:
    return '"' + name.strip('"').replace('"', '""') + '"'
