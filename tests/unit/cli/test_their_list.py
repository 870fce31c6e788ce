"""The list that a predecessor kept: what its columns are called, what its rows say, and which file each is of."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from acequia_cli.complaints import WrongUse
from acequia_cli.ingestion_events import IngestionList, Row, choose_columns, parse_columns, read_row

MEXICO = ZoneInfo("America/Mexico_City")
NAME = "network_events_20251220_121209.parquet"
AT = datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (
            ["id", "timestamp_ingesta", "nombre_archivo", "ruta_minio", "num_registros", "estado"],
            {
                "id": "id",
                "name": "nombre_archivo",
                "path": "ruta_minio",
                "rows": "num_registros",
                "status": "estado",
                "at": "timestamp_ingesta",
            },
        ),
        (
            ["Event_ID", "bucket_name", "object_key", "record_count", "Status", "created_at"],
            {
                "id": "Event_ID",
                "name": "object_key",
                "bucket": "bucket_name",
                "rows": "record_count",
                "status": "Status",
                "at": "created_at",
            },
        ),
        (["path", "ingested_at"], {"path": "path", "at": "ingested_at"}),
    ],
)
def test_columns_are_found_by_what_they_are_called(there: list[str], chosen: dict[str, str]) -> None:
    assert choose_columns("ingestion_events", there, {}) == chosen


def test_a_column_that_is_named_comes_before_what_is_known() -> None:
    chosen = choose_columns("t", ["created_at", "creado", "file_name"], {"at": "creado"})
    assert chosen == {"name": "file_name", "at": "creado"}


def test_a_column_says_one_thing() -> None:
    assert choose_columns("t", ["key", "timestamp"], {"path": "key", "name": "key", "at": "timestamp"})["path"] == "key"
    chosen = choose_columns("t", ["file", "timestamp", "records"], {"path": "file"})
    assert chosen == {"path": "file", "rows": "records", "at": "timestamp"}


@pytest.mark.parametrize(
    ("there", "given", "says"),
    [
        (["id", "filename"], {}, r"columns id, filename; .* when it was ingested: name it, --columns at=COLUMN"),
        (["created_at", "n"], {}, r"the file's name: name it, --columns name=COLUMN"),
        (["n"], {}, r"--columns at=COLUMN,name=COLUMN"),
        (["created_at", "file"], {"rows": "filas"}, r"--columns names filas"),
    ],
)
def test_what_is_missing_is_told_with_what_is_there(there: list[str], given: dict[str, str], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        choose_columns("t", there, given)


def test_columns_are_named_in_pairs() -> None:
    assert parse_columns("at=creado, name = objeto") == {"at": "creado", "name": "objeto"}
    assert parse_columns(None) == {}
    for wrong in ("creado", "when=creado", "at="):
        with pytest.raises(WrongUse, match="at=COLUMN"):
            parse_columns(wrong)


@pytest.mark.parametrize(
    ("record", "row"),
    [
        ({"at": AT, "name": NAME}, Row(None, NAME, None, None, None, AT)),
        (
            {"id": 7, "at": AT, "name": NAME, "path": f"s3://old/{NAME}", "rows": 10, "status": "ok"},
            Row("7", NAME, f"old/{NAME}", 10, "ok", AT),
        ),
        ({"at": AT, "bucket": "old", "name": f"a/{NAME}"}, Row(None, NAME, f"old/a/{NAME}", None, None, AT)),
        ({"at": AT, "bucket": "old", "path": f"/{NAME}"}, Row(None, NAME, f"old/{NAME}", None, None, AT)),
        ({"at": AT, "bucket": "old", "path": f"old/{NAME}"}, Row(None, NAME, f"old/{NAME}", None, None, AT)),
        ({"at": AT, "name": NAME, "rows": "10.0"}, Row(None, NAME, None, 10, None, AT)),
        ({"at": AT, "name": NAME, "rows": "many"}, Row(None, NAME, None, None, None, AT)),
        ({"at": None, "name": NAME}, "no time"),
        ({"at": "soon", "name": NAME}, "no time"),
        ({"at": AT, "name": " "}, "no name"),
    ],
)
def test_a_row_says_what_its_columns_say(record: dict[str, Any], row: Row | str) -> None:
    assert read_row(record, ZoneInfo("UTC")) == row


@pytest.mark.parametrize(
    ("said", "at"),
    [
        (datetime(2025, 12, 20, 6, 12, 9), AT),  # noqa: DTZ001 - as PostgreSQL gives a timestamp without a zone
        (AT, AT),
        ("2025-12-20 06:12:09", AT),
        ("2025-12-20T12:12:09Z", AT),
        (AT.timestamp(), AT),
        (date(2025, 12, 20), datetime(2025, 12, 20, 6, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_one_of_the_zone_that_is_named(said: object, at: datetime) -> None:
    row = read_row({"at": said, "name": NAME}, MEXICO)
    assert isinstance(row, Row)
    assert row.at == at


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[IngestionList]:
    made = IngestionList(tmp_path, ZoneInfo("UTC"), ["old"])
    yield made
    made.close()


def add(kept: IngestionList, *records: dict[str, Any]) -> None:
    kept._add([{"at": AT, **record} for record in records])  # type: ignore[misc]


def test_a_file_takes_the_row_of_its_path_before_one_of_its_name(kept: IngestionList) -> None:
    add(kept, {"id": 1, "name": NAME}, {"id": 2, "path": f"old/{NAME}"}, {"id": 3, "path": f"old/below/{NAME}"})
    taken = [kept.take(f"old/{NAME}", NAME) for _ in range(3)]
    assert [row.id if row else None for row in taken] == ["2", "1", None]
    assert [row.id for row in kept.left()] == ["3"]


def test_a_copy_in_a_folder_takes_the_row_of_its_name(kept: IngestionList) -> None:
    add(kept, {"id": 1, "path": f"another/{NAME}"})
    row = kept.take(f"file:///backup/{NAME}", NAME)
    assert row is not None
    assert row.id == "1"


def test_of_several_rows_of_a_file_the_newest_is_its_own(kept: IngestionList) -> None:
    add(kept, {"id": 1, "name": NAME}, {"id": 2, "name": NAME, "at": "2025-12-21"}, {"id": 3, "name": NAME})
    row = kept.take(f"old/{NAME}", NAME)
    assert row is not None
    assert row.id == "2"
    assert [row.id for row in kept.left()] == ["1", "3"]


def test_rows_that_say_too_little_are_counted_by_reason(kept: IngestionList) -> None:
    add(kept, {"name": NAME, "at": None}, {"name": None}, {"name": NAME})
    assert (kept.read, dict(kept.skipped)) == (3, {"no time": 1, "no name": 1})
