"""Queries, a warehouse and the upkeep of the lake over an installation that is at work, as a person starts them."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

PATIENCE = 240
ROWS = 500


def environment() -> dict[str, str]:
    ours = ("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def acequia(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "acequia_cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
        check=False,
    )


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(data: Path, sql: str, *options: object) -> Any:
    return document(acequia("query", sql, "--format", "json", "--data", data, *options))


def until(data: Path, sql: str, wanted: Any) -> None:
    """Ask again and again until the answer is `wanted`."""
    give_up = time.monotonic() + PATIENCE
    while (found := ask(data, sql)) != wanted:
        assert time.monotonic() < give_up, found


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A folder with an `acequia up` over it. Every user may enter: started by root, PostgreSQL is a user of its own."""
    with tempfile.TemporaryDirectory(prefix="acequia-query-") as name:
        Path(name).chmod(0o755)
        data = Path(name) / "data"
        process = subprocess.Popen(
            [sys.executable, "-m", "acequia_cli.main", "up", "--port", "0", "--data", str(data)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        try:
            give_up = time.monotonic() + PATIENCE
            while not (data / "server.json").exists():
                assert process.poll() is None and time.monotonic() < give_up, "it did not come up"
                time.sleep(0.1)
            yield data
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def ingest(data: Path, seed: int) -> None:
    done = acequia("ingest", "synthetic", "--rows", ROWS, "--seed", seed, "--no-wait", "--data", data)
    assert done.returncode == 0, done.stderr


def test_what_is_ingested_can_be_asked_for_meanwhile_and_kept_in_order(data: Path, tmp_path: Path):
    counted = "select count(*)::int as n from {}.network_events"
    whole = 0
    for seed in range(4):
        ingest(data, seed)
        # other work goes on: what is there is whole objects, and never fewer than before
        [bronze], [silver] = ask(data, counted.format("bronze")), ask(data, counted.format("silver"))
        assert bronze["n"] % ROWS == 0 and bronze["n"] >= whole
        assert silver["n"] <= (seed + 1) * ROWS
        whole = bronze["n"]
    until(data, counted.format("bronze"), [{"n": 4 * ROWS}])
    until(
        data,
        "select (select count(*) from bronze.network_events) = count(*) as same from silver.network_events "
        "having count(*) > 0",
        [{"same": True}],
    )

    ingest(data, 4)
    file = tmp_path / "warehouse.duckdb"
    built = document(acequia("warehouse", "build", file, "--data", data, "--json"))

    with duckdb.connect(str(file), read_only=True) as warehouse:
        [(rows,)] = warehouse.sql("select count(*) from bronze.network_events").fetchall()
    assert rows in (4 * ROWS, 5 * ROWS)
    assert {"bronze.sensor_data", "bronze.equipos", "bronze.eventos"} <= {table["table"] for table in built["tables"]}


def test_the_past_of_a_table_can_be_asked_for_until_it_is_expired(data: Path):
    counted = "select count(*)::int as n from silver.network_events"
    before = ask(data, counted)
    [table] = document(acequia("lake", "tables", "--data", data, "--json"))["tables"]
    at = [each["snapshot"] for each in table["history"]]
    assert ask(data, counted, "--as-of", table["snapshot"]) == before or len(at) > 1
    first = ask(data, counted, "--as-of", at[0])
    assert 0 < first[0]["n"] <= before[0]["n"]
    files = [path.resolve() for path in (data / "store").glob("*-silver/**/*.parquet")]

    compacted = document(acequia("lake", "compact", "--data", data, "--json"))["tables"]
    time.sleep(1)
    expired = document(acequia("lake", "expire", "--older-than", "1s", "--data", data, "--json"))["tables"]

    assert compacted[0]["files_after"] == 1
    assert expired[0]["snapshots_after"] < expired[0]["snapshots_before"]
    gone = acequia("query", counted, "--as-of", at[0], "--data", data)
    assert gone.returncode == 2 and "no table has a snapshot" in gone.stderr
    assert ask(data, counted)[0]["n"] >= before[0]["n"]
    assert all(path.is_file() for path in files), "an object of SILVER went with it"


def test_the_oilfields_files_are_tables_of_the_predecessors_names(data: Path, tmp_path: Path):
    assert acequia("samples", "oilfield", tmp_path).returncode == 0
    files = sorted(tmp_path.glob("*.csv"))
    assert acequia("ingest", "file", *files, "--data", data).returncode == 0

    for name in ("sensor_data", "equipos", "eventos"):
        [bronze] = ask(data, f"select count(*)::int as n from bronze.{name}")
        assert bronze["n"] > 0
        until(data, f"select count(*) > 0 as any from silver.{name}", [{"any": True}])
