"""acequia import as people and programs see it; the server is one that answers as the ingestor does."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from typer.testing import CliRunner, Result

from acequia.settings import MinioSettings, load
from acequia_cli import takeover
from acequia_cli.client import Api
from acequia_cli.connection import Connection
from acequia_cli.elsewhere import Bucket, Left, Wanted, open_source
from acequia_cli.main import app

AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)


class Ingestor:
    """Takes over each file once; rejects those that say so; is away as often as it is told to."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self.away = 0
        self.most = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.away:
            self.away -= 1
            return httpx.Response(503, json={"detail": "a queue is full", "status": 503})
        if request.url.path == "/imports/known":
            asked = json.loads(request.content)["objects"]
            self.most = max(self.most, len(asked))
            return httpx.Response(200, json={"known": [(o["uri"], o["etag"]) in self.files for o in asked]})
        if request.url.path == "/replays":
            lines = json.dumps({"result": {"seen": 1, "matched": 1, "sent": 2, "dead": 0}})
            return httpx.Response(200, content=lines, headers={"content-type": "application/x-ndjson"})
        if request.url.path == "/imports/rows":
            self.rows += (rows := json.loads(request.content)["rows"])
            return httpx.Response(200, json={"imported": len(rows), "known": 0})
        body, params = request.content, dict(request.url.params)
        if b"long" in body:
            return httpx.Response(413, json={"detail": "At most 9 bytes are allowed.", "status": 413, "allowed": 9})
        answer = {"fate": "imported", "run_id": "r", "objects": [], "rows_in": 4, "rows_raw": 3}
        answer |= {"rejected": {"unparsable_bytes": 1}, "same_as": None, "rule": None, "reason": None}
        if b"bad" in body:
            return httpx.Response(
                200, json={**answer, "fate": "rejected", "rule": "unreadable", "reason": "no Parquet"}
            )
        if params["dry_run"] != "true":
            self.files[params["uri"], params["etag"]] = params
        return httpx.Response(200, json=answer)


@pytest.fixture
def ingestor(monkeypatch: pytest.MonkeyPatch) -> Ingestor:
    from contextlib import asynccontextmanager

    served = Ingestor()

    @asynccontextmanager
    async def connect(where: Any) -> Any:
        async with httpx.AsyncClient(transport=httpx.MockTransport(served), base_url="http://test") as client:
            yield Connection(Api(client), where.data, in_process=False)

    monkeypatch.setattr(takeover, "connect", connect)
    monkeypatch.setattr(takeover, "PATIENCE", (0.0,) * 4)
    return served


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (made := tmp_path / "theirs").mkdir()
    for day in (20, 21):
        (made / f"network_events_202512{day}_121209.parquet").write_bytes(b"rows of %d" % day)
    yield made


def acequia(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def document(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_each_file_is_asked_for_once_with_its_time_and_its_etag(ingestor: Ingestor, folder: Path) -> None:
    (folder / "notes.txt").write_text("none of this")
    (folder / ".network_events_hidden.parquet").write_text("a copy on its way")
    told = document(acequia("import", folder, "--json", "--timezone", "America/Mexico_City"))
    assert told["files"] == {
        "found": 3,
        "imported": 2,
        "known": 0,
        "same_content": 0,
        "rejected": 0,
        "skipped": {"another name": 1},
    }
    assert told["rows"] == {"in": 8, "raw": 6, "rejected": {"unparsable_bytes": 2}}
    assert sorted(p["at"] for p in ingestor.files.values()) == [
        "2025-12-20T18:12:09+00:00",
        "2025-12-21T18:12:09+00:00",
    ]
    again = document(acequia("import", folder, "--json"))
    assert (again["files"]["imported"], again["files"]["known"], again["rows"]["in"]) == (0, 2, 0)


def test_a_bad_file_is_named_with_its_reason_and_the_others_are_taken(ingestor: Ingestor, folder: Path) -> None:
    (folder / "network_events_20251222_121209.parquet").write_bytes(b"bad")
    result = acequia("import", folder)
    assert result.exit_code == 1
    assert re.search(r"left alone  file://\S+20251222_121209.parquet\n +unreadable: no Parquet", result.stdout)
    assert "3 files: 2 taken over, 1 left alone." in result.stdout
    assert "8 rows: 6 in RAW, 2 in quarantine." in result.stdout
    assert "No run was started. To have it worked on: acequia replay" in result.stdout


def test_a_file_over_the_servers_limit_is_named_with_the_setting_and_the_others_are_taken(
    ingestor: Ingestor, folder: Path
) -> None:
    (folder / "network_events_20251219_121209.parquet").write_bytes(b"too long")
    result = acequia("import", folder, "--json")
    assert result.exit_code == 1
    told = document(result)
    assert (told["files"]["found"], told["files"]["imported"], told["files"]["rejected"]) == (3, 2, 1)
    [left] = told["rejected"]
    assert left["uri"].endswith("network_events_20251219_121209.parquet")
    assert left["rule"] == "too_large"
    assert left["reason"] == ("At most 9 bytes are allowed. The ingestor's ACEQUIA_INGESTOR_MAX_UPLOAD_BYTES says so.")


def test_a_file_that_is_gone_by_its_turn_or_may_not_be_read_is_named_and_the_others_are_taken(
    ingestor: Ingestor, folder: Path
) -> None:
    (folder / "network_events_20251218_121209.parquet").write_bytes(b"rows")
    real = takeover.Api.imports_known

    async def meanwhile(api: Api, objects: list[dict[str, Any]]) -> list[bool]:
        (folder / "network_events_20251218_121209.parquet").unlink()
        return await real(api, objects)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(takeover.Api, "imports_known", meanwhile)
        result = acequia("import", folder, "--json")
    assert result.exit_code == 1
    told = document(result)
    assert (told["files"]["imported"], told["files"]["rejected"]) == (2, 1)
    assert [(one["rule"], one["reason"]) for one in told["rejected"]] == [
        ("gone", "it can't be read: No such file or directory")
    ]


def test_what_the_list_says_of_a_file_that_is_left_alone_becomes_a_record_by_itself(
    ingestor: Ingestor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"network_events_20251220_121209.parquet", "network_events_20251222_121209.parquet"}
    (folder / "network_events_20251222_121209.parquet").write_bytes(b"bad")

    async def load(kept: takeover.IngestionList, url: str, table: str, given: dict[str, str]) -> None:
        kept._add([{"at": AT, "name": name} for name in sorted(names)])  # type: ignore[misc]

    monkeypatch.setattr(takeover.IngestionList, "load", load)
    result = acequia("import", folder, "--database", "postgresql://x", "--json")
    told = document(result)
    assert (told["list"]["rows"], told["list"]["of_files"], told["list"]["imported"]) == (2, 1, 1)
    assert [row["name"] for row in ingestor.rows] == ["network_events_20251222_121209.parquet"]


def test_a_dry_run_says_that_nothing_was_stored(ingestor: Ingestor, folder: Path) -> None:
    result = acequia("import", folder, "--dry-run")
    assert (result.exit_code, ingestor.files) == (0, {})
    assert "2 would be taken over" in result.stdout
    assert "Nothing was stored (--dry-run)." in result.stdout


def test_flags_may_be_said_in_spanish(ingestor: Ingestor, folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "flujos_20251220_121209.parquet").write_bytes(b"rows")
    asked = ("--patron", "flujos_*", "--recursivo", "--zona-horaria", "America/Mexico_City", "--simular", "--json")
    told = document(acequia("import", folder, *asked))
    assert (told["dry_run"], told["files"]["imported"], told["files"]["skipped"]) == (True, 1, {"another name": 2})
    assert document(acequia("import", folder, "--procesar", "--json"))["sent"] == 2


def test_while_the_server_is_away_it_is_asked_again(ingestor: Ingestor, folder: Path) -> None:
    ingestor.away = 3
    assert document(acequia("import", folder, "--json"))["files"]["imported"] == 2
    ingestor.away = 100
    result = acequia("import", folder)
    assert result.exit_code == 1
    assert "a queue is full" in result.output


def test_many_files_are_asked_about_a_few_at_a_time(ingestor: Ingestor, folder: Path) -> None:
    for number in range(120):
        (folder / f"network_events_{number:03d}.parquet").write_bytes(b"%d" % number)
    assert document(acequia("import", folder, "--json"))["files"]["imported"] == 122
    assert ingestor.most == 50


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ((), "say what to take over"),
        (("nowhere",), "no such file or folder"),
        (("http://x/y",), "s3://bucket/prefix is expected"),
        (("s3:///x",), "s3://bucket"),
        ((".", "--timezone", "Mexico"), "no time zone"),
        ((".", "--columns", "creado"), "at=COLUMN"),
    ],
)
def test_what_can_not_be_asked_is_told_in_a_line(
    ingestor: Ingestor, asked: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACEQUIA_IMPORT_DATABASE", raising=False)
    result = acequia("import", *asked)
    assert result.exit_code == 2
    assert says in result.output


def test_a_bucket_without_the_settings_of_its_server_names_them(
    ingestor: Ingestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    result = acequia("import", "s3://cybersec-ml")
    assert result.exit_code == 2
    assert all(name in result.output for name in ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"))


def test_a_bucket_is_read_by_the_settings_of_the_environment_that_is_named(
    ingestor: Ingestor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "ACEQUIA_URL"):
        monkeypatch.setenv(name, "")  # so that it is as before when the test ends
        monkeypatch.delenv(name)
    file = tmp_path / "acequia.toml"
    file.write_text(
        '[env.dev]\nurl = "http://test"\n'
        'MINIO_ENDPOINT = "old.example.org"\nMINIO_ACCESS_KEY = "a"\nMINIO_SECRET_KEY = "b"\n'
    )
    opened: list[str] = []

    async def files(bucket: Bucket, wanted: Wanted) -> Any:
        opened.append(load(MinioSettings).endpoint)
        for left in ():
            yield left

    monkeypatch.setattr(Bucket, "files", files)
    result = acequia("import", "s3://cybersec-ml", "--env", "dev", "--config", file)
    assert (result.exit_code, opened) == (0, ["old.example.org"]), result.output


def test_a_database_that_is_away_is_told(ingestor: Ingestor) -> None:
    result = acequia("import", "--database", "postgresql://nobody@127.0.0.1:1/x")
    assert result.exit_code == 1
    assert "the database can't be reached" in result.output


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("network_events_20251220_061209.parquet", AT),
        ("network_events_20251220T061209.parquet", AT),
        ("network_events_20251399_061209.parquet", None),
        ("network_events.parquet", None),
        ("network_events_120251220_0612091.parquet", None),
    ],
)
def test_the_time_in_a_files_name_is_when_it_was_written(name: str, at: datetime | None) -> None:
    stored = datetime(2026, 1, 1, tzinfo=UTC)
    left = Left(name, f"s3://old/{name}", "e", stored, name)
    assert left.at(ZoneInfo("America/Mexico_City")) == (at or stored)


def test_objects_of_our_own_are_none_of_theirs() -> None:
    wanted = Wanted("network_events_*.parquet", recursive=True)
    assert not wanted.takes("network_events_20251220_121209_9f2c4e1a7b3d5e60_0001.parquet")
    assert not wanted.takes("network_events_20251220_121209_9f2c4e1a7b3d5e60_0001.v1-3fa9c1.parquet")
    assert wanted.takes("network_events_20251220_121209.parquet")
    assert dict(wanted.skipped) == {"Acequia's own": 2}


async def test_a_file_in_a_bucket_of_the_embedded_installation_is_called_as_the_store_calls_it(tmp_path: Path) -> None:
    bucket = tmp_path / "store" / "cybersec-ml-raw"
    bucket.mkdir(parents=True)
    (bucket / "network_events_20251220_121209.parquet").write_bytes(b"rows")
    source = open_source(str(bucket), tmp_path)
    found = [left async for left in source.files(Wanted("*.parquet", recursive=False))]
    assert [left.uri for left in found] == ["s3://cybersec-ml-raw/network_events_20251220_121209.parquet"]
