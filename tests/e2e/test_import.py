"""`acequia import` on the embedded installation: a predecessor's files and table, taken over and later worked on."""

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import polars as pl
import pytest

from acequia.settings import PostgresSettings
from acequia_cli.postgres import EmbeddedPostgres

PATIENCE = 240
AS_BEFORE = "SELECT * FROM ingestion_events ORDER BY timestamp_ingesta, nombre_archivo"
GONE = "network_events_20251218_060000.parquet"


OURS = ("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
COMMAND = (sys.executable, "-m", "acequia_cli.main")


def acequia(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=ENVIRONMENT,
        check=False,
    )


class Up:
    """`acequia up` over a folder: commands that name the folder talk to it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = [*COMMAND, "up", "--port", "0", "--data", str(self.data)]
        self.process = subprocess.Popen(
            arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + PATIENCE
        while not (self.data / "server.json").exists():
            assert self.process.poll() is None and time.monotonic() < end, "it does not come up"
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)
            self.process = None


def document(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def theirs(day: int, count: int) -> bytes:
    """A file as the predecessors wrote it."""
    buffer = io.BytesIO()
    pl.DataFrame(
        {
            "timestamp": pl.datetime_range(
                datetime(2025, 12, day, tzinfo=UTC), datetime(2025, 12, day, 23, tzinfo=UTC), "7m", eager=True
            ).head(count),
            "src_ip": [f"10.0.0.{n % 5}" for n in range(count)],
            "dst_ip": [f"192.0.2.{n % 3}" for n in range(count)],
            "bytes": [100 + n for n in range(count)],
            "duration": [0.5 + n for n in range(count)],
            "protocol": ["TCP"] * count,
        }
    ).write_parquet(buffer)
    return buffer.getvalue()


async def ask(settings: PostgresSettings, statement: str, *more: Any) -> list[Any]:
    connection = await asyncpg.connect(
        host=settings.host, port=settings.port, user=settings.user, database=settings.database
    )
    try:
        return [tuple(row) for row in await connection.fetch(statement, *more)]
    finally:
        await connection.close()


@dataclass(frozen=True)
class Predecessor:
    """What one left: a folder of files and a table of PostgreSQL."""

    folder: Path
    database: PostgresSettings
    data: Path
    """Of the installation that takes it over."""
    up: Up

    @property
    def url(self) -> str:
        at = self.database
        return f"postgresql://{at.user}@/{at.database}?host={at.host}&port={at.port}"

    @property
    def file(self) -> str:
        return (self.folder / "network_events_20251220_121209.parquet").as_uri()

    def take_over(self, *more: object) -> subprocess.CompletedProcess[str]:
        """From America/Mexico_City, which is six hours behind UTC."""
        told = ("--timezone", "America/Mexico_City", "--data", self.data, "--json")
        return acequia("import", self.folder, "--database", self.url, *told, *more)

    def as_before(self) -> list[Any]:
        """What the predecessors' dashboards see of the installation."""
        return asyncio.run(ask(EmbeddedPostgres(self.data).start(), AS_BEFORE))  # it runs already


@pytest.fixture(scope="module")
def predecessor() -> Iterator[Predecessor]:
    with tempfile.TemporaryDirectory(prefix="acequia-import-") as name:
        root = Path(name)
        root.chmod(0o755)  # started by root, PostgreSQL runs as a user of its own
        (folder := root / "theirs").mkdir()
        for day, count in ((20, 120), (21, 80)):
            (folder / f"network_events_202512{day}_121209.parquet").write_bytes(theirs(day, count))
        (folder / "network_events_20251222_121209.parquet").write_bytes(b"PAR1, and then nothing")
        (folder / "notes.txt").write_text("what is none of this")
        (old := root / "old").mkdir()
        server = EmbeddedPostgres(old)
        settings = server.start()
        statement = """
        CREATE TABLE ingestion_events (
            id serial PRIMARY KEY, timestamp_ingesta timestamp, nombre_archivo text, ruta_minio text,
            num_registros int, estado text
        )"""
        rows = [
            ("2025-12-18 00:00:00", GONE, f"cybersec-ml/{GONE}", 10, "exitoso"),
            ("2025-12-20 06:12:30", "network_events_20251220_121209.parquet", None, 120, "exitoso"),
            ("2025-12-21 06:12:30", "network_events_20251221_121209.parquet", None, 81, "exitoso"),
        ]
        asyncio.run(ask(settings, statement))
        for row in rows:
            insert = "INSERT INTO ingestion_events VALUES (DEFAULT, $1::text::timestamp, $2, $3, $4, $5)"
            asyncio.run(ask(settings, insert, *row))
        up = Up(root / "data")
        try:
            up.start()
            yield Predecessor(folder, settings, root / "data", up)
        finally:
            up.stop()
            server.stop()


@pytest.fixture(scope="module")
def taken(predecessor: Predecessor) -> dict[str, Any]:
    """The document of the first import, after one that only told."""
    foreseen = predecessor.take_over("--simular")
    done = predecessor.take_over()
    assert done.returncode == foreseen.returncode == 1, done.stderr  # one file can't be read
    assert document(foreseen) == {**document(done), "dry_run": True}
    return document(done)


def test_files_and_list_are_taken_over_with_every_row_accounted_for(taken: dict[str, Any]) -> None:
    assert taken["files"] == {
        "found": 4,
        "imported": 2,
        "known": 0,
        "same_content": 0,
        "rejected": 1,
        "skipped": {"another name": 1},
    }
    assert taken["rows"] == {"in": 200, "raw": 200, "rejected": {}}
    kept = taken["list"]
    assert (kept["rows"], kept["of_files"], kept["imported"], kept["known"], kept["skipped"]) == (3, 2, 1, 0, {})
    assert [one["rule"] for one in taken["rejected"]] == ["unreadable"]
    assert [(one["listed"], one["found"]) for one in taken["differing"]] == [(81, 80)]


def test_no_run_is_started_and_nothing_is_lost(predecessor: Predecessor, taken: dict[str, Any]) -> None:
    done = acequia("verify", "--settled", "--grace", 0, "--data", predecessor.data, "--json")
    assert done.returncode == 0, done.stdout
    proof = document(done)
    at = {row["reader"]: row for row in proof["sums"]}
    assert (at["transformer"]["objects"], at["transformer"]["held"]) == (2, 2)
    assert at.keys() == {"transformer"}
    assert proof["audit"]["ok"]
    swept = document(acequia("sweep", "--grace", 0, "--data", predecessor.data, "--json"))
    assert (swept["orphans"], swept["sent"]) == ([], 0)


def test_runs_and_trace_know_what_was_taken_over(predecessor: Predecessor, taken: dict[str, Any]) -> None:
    runs = document(acequia("runs", "--status", "imported", "--data", predecessor.data, "--json"))["runs"]
    assert [(run["accepted_at"][:19], run["source"], run["rows_raw"]) for run in runs] == [
        ("2025-12-21T18:12:09", "network_events_20251221_121209.parquet", 80),
        ("2025-12-20T18:12:09", "network_events_20251220_121209.parquet", 120),
        ("2025-12-18T06:00:00", GONE, 0),
    ]
    lineage = document(acequia("trace", predecessor.file, "--data", predecessor.data, "--json"))
    (raw,) = [node for node in lineage["nodes"] if node["layer"] == "raw"]
    assert raw["rows"] == 120
    assert "/date=2025-12-20/network_events_20251220_181209_" in raw["uri"]


def test_the_view_lists_what_their_table_listed(predecessor: Predecessor, taken: dict[str, Any]) -> None:
    listed = predecessor.as_before()
    assert len({row[0] for row in listed}) == 3
    names = [f"network_events_202512{day}_121209.parquet" for day in (20, 21)]
    paths = [(predecessor.folder / name).as_uri() for name in names]
    assert [(str(row[1])[:19], *row[2:]) for row in listed] == [
        ("2025-12-18 06:00:00", GONE, f"cybersec-ml/{GONE}", 10, "exitoso"),
        ("2025-12-20 12:12:30", names[0], paths[0], 120, "exitoso"),
        ("2025-12-21 12:12:30", names[1], paths[1], 81, "exitoso"),
    ]


def test_a_second_import_takes_what_is_new_and_nothing_else(predecessor: Predecessor, taken: dict[str, Any]) -> None:
    again = document(predecessor.take_over())
    assert (again["files"]["imported"], again["files"]["known"]) == (0, 2)
    assert (again["list"]["of_files"], again["list"]["imported"], again["list"]["known"]) == (2, 0, 1)
    new = predecessor.folder / "network_events_20251223_121209.parquet"
    new.write_bytes(theirs(23, 50))
    try:
        more = document(predecessor.take_over())
        assert (more["files"]["imported"], more["files"]["known"], more["rows"]["in"]) == (1, 2, 50)
    finally:
        new.unlink()


def test_a_copy_is_no_new_content_and_stands_in_the_view_as_their_table_had_it(
    predecessor: Predecessor, taken: dict[str, Any]
) -> None:
    copy = predecessor.folder / "network_events_20251220_121215.parquet"
    copy.write_bytes(theirs(20, 120))
    insert = "INSERT INTO ingestion_events VALUES (DEFAULT, '2025-12-20 06:12:40', $1, NULL, 120, 'reintento')"
    asyncio.run(ask(predecessor.database, insert, copy.name))
    try:
        told = document(predecessor.take_over())
    finally:
        copy.unlink()
    assert (told["files"]["imported"], told["files"]["same_content"], told["list"]["of_files"]) == (0, 1, 3)
    assert [(str(row[1])[:19], *row[2:]) for row in predecessor.as_before() if row[2] == copy.name] == [
        ("2025-12-20 12:12:40", copy.name, copy.as_uri(), 120, "reintento")
    ]


def test_a_rebuilt_audit_database_knows_the_history(predecessor: Predecessor, taken: dict[str, Any]) -> None:
    before = predecessor.as_before()
    predecessor.up.stop()
    server = EmbeddedPostgres(predecessor.data)
    asyncio.run(ask(server.start(), "DROP SCHEMA acequia CASCADE"))
    server.stop()
    predecessor.up.start()
    assert acequia("audit", "rebuild", "--data", predecessor.data).returncode == 0
    assert [row[1:] for row in predecessor.as_before()] == [row[1:] for row in before]
    assert acequia("verify", "--settled", "--grace", 0, "--data", predecessor.data).returncode == 0


def test_a_replay_has_the_history_worked_on(predecessor: Predecessor, taken: dict[str, Any]) -> None:
    asked = ("replay", "--layer", "raw", "--dataset", "network_events", "--only-missing", "--data", predecessor.data)
    assert document(acequia(*asked, "--until", "2025-12-22", "--json"))["sent"] == 2
    end = time.monotonic() + PATIENCE
    while True:
        runs = document(acequia("runs", "--data", predecessor.data, "--json"))["runs"]
        done = {run["source"]: (run["state"], run["rows_silver"]) for run in runs}
        if [state for state, _ in done.values()].count("done") == 2:
            break
        assert time.monotonic() < end, done
    assert done["network_events_20251220_121209.parquet"] == ("done", 120)
    assert done["network_events_20251221_121209.parquet"] == ("done", 80)
    assert done["network_events_20251223_121209.parquet"] == ("imported", 0)
    assert acequia("verify", "--grace", 0, "--data", predecessor.data).returncode == 0
