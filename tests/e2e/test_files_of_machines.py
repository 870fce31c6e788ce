"""The oilfield's files as a person brings them in: watched, dropped, handed over. The embedded installation takes each
to SILVER, and says what became of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.layers import Layer
from acequia.settings import AcequiaSettings
from acequia_cli.samples import draw_oilfield

PATIENCE = 240
WELLS, DAYS, SEED = 3, 1, 11
DROPPED = {"AYATSIL-100": 2, "AYATSIL-901": 3}
"""Rows of the files that are dropped; a file of the first name was there before."""
SAMPLES = {sample.name: sample for sample in draw_oilfield(WELLS, DAYS, SEED)}


def environment(**more: str) -> dict[str, str]:
    ours = ("ACEQUIA_", "MINIO_", "RABBITMQ_", "PG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "acequia_cli.main", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def acequia(*arguments: object) -> tuple[int, Any, str]:
    """Exit code, document, what was said."""
    process = started(*arguments, "--json")
    out, said = process.communicate(timeout=PATIENCE)
    try:
        return process.returncode, json.loads(out), said
    except ValueError:
        pytest.fail(f"no document:\n{out}\n{said}")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user of the machine may enter: started by root, PostgreSQL runs as a user of its own."""
    with tempfile.TemporaryDirectory(prefix="acequia-oilfield-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return place / "data"


@pytest.fixture(scope="module")
def watched(place: Path, data: Path) -> Mapping[str, dict[str, Any]]:
    """What became of each sample file, left in a folder that was watched once."""
    assert acequia("samples", "oilfield", place / "in", "--wells", WELLS, "--days", DAYS, "--seed", SEED)[0] == 0
    (place / "in" / "leeme.txt").write_text("no es un dato\n")
    code, document, said = acequia(
        "watch", place / "in", "--once", "--settle", "0.2", "--move-to", place / "done", "--data", data
    )
    assert code == 0, said
    assert "leeme.txt: no dataset has a pattern" in said
    return {file["file"]: file for file in document["files"]}


@pytest.fixture(scope="module")
def served(data: Path, watched: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """The url of the installation, started after two more files were dropped into LANDING, without a word."""

    async def drop() -> None:
        bus = await SqliteBus.open(data / "bus.sqlite")
        store = await DirectoryStore.open(data / "store", AcequiaSettings().buckets, bus)
        try:
            for well, rows in DROPPED.items():
                lines = [f"2025-12-20 10:0{n},4{n}.5,60" for n in range(rows)]
                content = "\n".join(["Fecha,Corriente,Frecuencia", *lines, ""]).encode()
                await store.put(Layer.LANDING, f"{well}_all.csv", content, metadata={}, content_type="text/csv")
        finally:
            await bus.close()
            await store.close()

    asyncio.run(drop())
    up = serve(data, 0)
    yield str(json.loads((data / "server.json").read_text())["url"])
    stopped(up)


def silver(data: Path, dataset: str) -> pl.DataFrame:
    return pl.concat(
        [pl.read_parquet(p) for p in sorted((data / "store").glob(f"*-silver/{dataset}/**/*.parquet"))], how="vertical"
    )


def test_each_watched_file_is_in_silver_with_all_its_rows_accounted_for(
    place: Path, data: Path, watched: Mapping[str, dict[str, Any]]
) -> None:
    assert watched.keys() == SAMPLES.keys()
    for name, sample in SAMPLES.items():
        told = watched[name]
        assert (told["state"], told["dataset"]) == ("done", sample.dataset)
        assert told["rows_in"] == len(sample.rows) + sample.unreadable
        assert told["rows_silver"] == len(sample.rows) - sample.invalid
        assert told["rows_quarantined"] == sample.unreadable + sample.invalid
        assert (place / "done" / name).read_bytes() == sample.content
    assert [path.name for path in (place / "in").iterdir()] == ["leeme.txt"]
    for dataset in ("sensor_data", "equipos", "eventos"):
        mine = [sample for sample in SAMPLES.values() if sample.dataset == dataset]
        found = silver(data, dataset)
        assert found.height == sum(len(sample.rows) - sample.invalid for sample in mine)
        assert set(found["well"]) == {row["well"] for sample in mine for row in sample.rows}


def test_their_runs_are_finished_although_nothing_is_trained_and_nothing_is_lost(
    data: Path, watched: Mapping[str, dict[str, Any]]
) -> None:
    code, proof, said = acequia("verify", "--settled", "--grace", "0", "--data", data)
    assert code == 0, said
    assert {row["dataset"] for row in proof["sums"] if row["layer"] == "silver" and row["reader"] == "trainer"} == {
        "sensor_data",
        "equipos",
        "eventos",
    }
    assert all(
        row["not_applicable"] == row["objects"]
        for row in proof["sums"]
        if row["layer"] == "silver" and row["reader"] == "trainer"
    )
    _, found, _ = acequia("runs", "--limit", "100", "--data", data)
    assert {run["state"] for run in found["runs"]} == {"done"}


def test_the_same_files_left_there_again_are_known(place: Path, data: Path, served: str) -> None:
    again = place / "again"
    again.mkdir()
    for name, sample in SAMPLES.items():
        (again / name).write_bytes(sample.content)
    before = len(list((data / "store").glob("*-landing/**/uploads/**/*.csv")))
    code, document, _ = acequia("watch", again, "--una-vez", "--settle", "0.2", "--url", served)
    assert (code, document["brought_in"], document["known_before"]) == (0, 0, len(SAMPLES))
    assert len(list((data / "store").glob("*-landing/**/uploads/**/*.csv"))) == before


def test_a_file_handed_over_says_how_it_was_read_and_takes_what_it_is_told(
    place: Path, data: Path, served: str
) -> None:
    file = place / "Eventos_AYATSIL-900_all.csv"
    file.write_bytes("Inicio;Fin;Categoría\n03/04/2025;05/04/2025;Paro\n".encode("latin-1"))
    code, told, _ = acequia("ingest", "file", file, "--url", served)
    assert (code, told["rows_silver"]) == (0, 1)
    assert (
        told["read_as"]["options"] | {"encoding": "windows-1252", "separator": ";", "dates": "dmy"}
        == (told["read_as"]["options"])
    )
    assert told["read_as"]["told_by"]["dates"] == "default"
    code, told, _ = acequia("ingest", "file", file, "--csv", "dates=mdy,encoding=latin-1", "--url", served)
    assert (code, told["state"], told["read_as"]["told_by"]["dates"]) == (0, "done", "upload")
    months = silver(data, "eventos").filter(pl.col("well") == "AYATSIL-900")["started_at"].dt.month().sort().to_list()
    assert months == [3, 4]
    process = started("ingest", "file", file, "--csv", "dates=mdy", "--url", served)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Read as" in said
    process = started("ingest", "file", file, "--csv", "dates=nunca", "--url", served)
    _, wrong = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "dmy mdy ymd" in wrong


def test_two_files_dropped_into_landing_at_once_under_a_name_that_is_there_are_two_more(
    data: Path, served: str
) -> None:
    meant = [sample for sample in SAMPLES.values() if sample.dataset == "sensor_data"]
    until(
        lambda: (
            silver(data, "sensor_data").height == sum(len(s.rows) - s.invalid for s in meant) + sum(DROPPED.values())
        )
    )
    code, proof, _ = acequia("verify", "--url", served)
    assert (code, proof["ok"]) == (0, True)


def test_a_watcher_outlives_its_server_and_ends_well_on_sigterm(place: Path) -> None:
    data, inbox = place / "served", place / "inbox"
    inbox.mkdir()
    up = serve(data, 0)
    url = json.loads((data / "server.json").read_text())["url"]
    port = int(url.rpartition(":")[2])
    watcher = started("watch", inbox, "--settle", "0.2", "--every", "0.2", "--url", url, "--json")
    try:
        (inbox / "AYATSIL-1_all.csv").write_text("Fecha;Amp;Hz\n20/12/2025;1;2\n")
        until(lambda: list((data / "store").glob("*-silver/sensor_data/**/*.parquet")))
        stopped(up)
        (inbox / "AYATSIL-2_all.csv").write_text("Fecha;Amp;Hz\n20/12/2025;1;2\n21/12/2025;3;4\n")
        time.sleep(1)
        up = serve(data, port)
        until(lambda: len(list((data / "store").glob("*-silver/sensor_data/**/*.parquet"))) == 2)
    finally:
        watcher.send_signal(signal.SIGTERM)
        out, said = watcher.communicate(timeout=60)
        stopped(up)
    assert watcher.returncode == 0, said
    assert json.loads(out)["brought_in"] == 2
    assert said.count("Trying again") >= 1


def serve(data: Path, port: int) -> subprocess.Popen[str]:
    process = started("up", "--port", port, "--data", data)
    until(lambda: (data / "server.json").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


def stopped(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def until(come: Any) -> None:
    give_up = time.monotonic() + PATIENCE
    while not come():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.1)
