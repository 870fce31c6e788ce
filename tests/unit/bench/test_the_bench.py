"""What the bench measures is what it says: no servers are needed for these."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest

Script = Callable[[str], ModuleType]
BENCH = Path(__file__).resolve().parents[3] / "bench"
HEADER = "timestamp,src_ip,dst_ip,bytes,duration,protocol\n"


def events(rows: int, start: int = 0) -> str:
    at = datetime(2025, 12, 20, tzinfo=UTC)
    lines = (f"{(at + timedelta(seconds=start + n)).isoformat()},10.0.0.1,10.0.0.2,{n},0.5,tcp\n" for n in range(rows))
    return HEADER + "".join(lines)


def test_the_plain_script_accounts_for_every_row_as_the_chain_does(script: Script, tmp_path: Path) -> None:
    bad = "2025-12-20T00:00:00Z,10.0.0.1,10.0.0.2,many,0.5,tcp\n" + "2025-12-20T00:00:00Z,nowhere,10.0.0.2,1,0.5,tcp\n"
    twice = events(1).removeprefix(HEADER)
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text(events(50) + bad + twice)
    second.write_text(events(20, start=1000))
    (tmp_path / "work").mkdir()
    answer = script("plain").Plain(tmp_path / "work").files([first, second])
    assert answer["rows"] == {"in": 73, "raw": 72, "silver": 70, "duplicate": 1, "rejected": 2}
    assert "psi" in answer["metrics"]


def test_the_plain_script_draws_what_was_asked_for_and_leaves_nothing_but_a_champion(
    script: Script, tmp_path: Path
) -> None:
    answer = script("plain").Plain(tmp_path).synthetic(rows=10, seed=7, anomaly_rate=0.02)
    assert answer["rows"]["in"] == answer["rows"]["silver"] == 10
    assert set(answer["steps"]) == {"ingest", "transform", "train", "evaluate"}
    assert sum(answer["steps"].values()) <= answer["seconds"]
    assert {path.name for path in tmp_path.iterdir()} <= {"champion.json"}


@pytest.mark.parametrize("way", ["BARE", "EVERY"])
def test_each_stage_of_the_floor_reads_what_the_one_before_wrote_and_says_so_last(script: Script, way: str) -> None:
    floor = script("floor")
    written: set[str] = set()
    for stage in floor.STAGES:
        requests = [request for step in getattr(floor, way)[stage] for request in step]
        woke_for = {name for act, name in requests if act == "get" and not name.startswith("ledger/")}
        assert woke_for - {"models/champion"} <= written
        assert bool(woke_for) == (stage != "ingest")
        written |= {name for act, name in requests if act == "put"}
        assert "say" in [act for act, _ in requests if act != "remove"][-1:]


def test_the_bare_chain_is_four_puts_three_gets_and_an_audit_message_each(script: Script) -> None:
    acts = [act for steps in script("floor").BARE.values() for step in steps for act, _ in step]
    assert sorted(acts) == ["get"] * 3 + ["put"] * 4 + ["say"] * 4


def test_a_message_of_the_floor_is_told_apart_from_a_command(script: Script) -> None:
    floor = script("floor")
    command = floor.command("bare", "r1", {"raw/o.parquet": 7})
    assert floor.parse(command.encode()) == (None, command)
    event = (
        b'{"Records": [{"s3": {"object": {"key": "r1%2Fo.parquet", "userMetadata": {"X-Amz-Meta-Bench": "told"}}}}]}'
    )
    assert floor.parse(event) == ("r1/o.parquet", "told")


def test_sizes_for_the_floor_are_those_of_the_objects_that_the_records_name(script: Script) -> None:
    run = script("run")
    outputs = [
        ("s3://p-raw/x_0001.parquet", 100),
        ("s3://p-raw/y_0001.parquet", 300),
        ("s3://p-silver/x.parquet", 50),
        ("s3://p-models/m/model.json", 5),
        ("s3://p-models/m/model-abc.skops", 500),
        ("s3://p-eval/m/evaluation.json", 4),
        ("s3://p-eval/m/report.html", 40),
        ("s3://p-ledger/plans/1.json", 9),
    ]
    heard = run.Heard([(0.0, {"outputs": [{"uri": uri, "bytes": size}]}) for uri, size in outputs])
    assert run._bare_sizes(heard.sizes()) == {
        "raw/o.parquet": 200,
        "silver/o.parquet": 50,
        "models/model.json": 505,
        "eval/o.json": 44,
    }


def test_a_missed_aim_is_called_missed(script: Script) -> None:
    run = script("run")
    result = run.Result("ten rows")
    result.add("a", "a: plain", run.Spread.of([0.2, 0.1, 0.4]))
    result.judge("c / a <= 1.05", run.Spread.of([1.0, 1.2, 1.3]), met=False)
    assert "200 ms [100 ms, 400 ms]" in result.show()
    assert "1.20 [1.00, 1.30]   aim c / a <= 1.05: MISSED" in result.show()
    assert result.document["met"] is False


def test_every_format_of_network_events_is_written_and_read_to_the_last_row(script: Script, tmp_path: Path) -> None:
    formats = script("formats")
    files = formats.write_files(500, tmp_path)
    assert set(files) == set(formats.READERS) == set(formats.DATASET.formats)
    for name, path in files.items():
        assert formats.READERS[name](path).height == formats.ours(name, path) == 500
    kept = {
        name: formats.parse_file(path, name, formats.DATASET, name, tmp_path / f"o-{name}")
        for name, path in files.items()
    }
    first = {name: pl.read_parquet(parsed.parts[0].path)["src_ip"].to_list() for name, parsed in kept.items()}
    assert all(column == first["canonical_parquet"] for column in first.values())


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("MINIO_", "RABBITMQ_", "PG_"))}
    command = [sys.executable, str(BENCH / "run.py"), *arguments]
    return subprocess.run(command, env=bare, capture_output=True, text=True, timeout=60, check=False)


def test_without_servers_one_line_says_how_to_get_them() -> None:
    done = _run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "make bench" in done.stderr
    assert done.stderr.count("\n") == 1
