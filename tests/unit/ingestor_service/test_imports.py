"""What a predecessor ingested is taken over: known, held back, once, and left alone where it is no good."""

import hashlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import polars as pl
import pytest

from acequia.app import make_app
from acequia.datasets import Registry
from acequia.events import META_HELD, Status, parse_notification
from acequia.layers import Layer, Name, Stem, claim_key, data_key, done_key, held_key, landing_done_id
from acequia.runner import Workshop
from acequia_ingestor.imports import Importer, import_router
from acequia_ingestor.ingest import Ingestor

from .conftest import BUCKETS, document, keys, land, taken, told

NAME = "network_events_20251220_121209.parquet"
URI = f"s3://cybersec-ml/{NAME}"
AT = "2025-12-20T12:12:09Z"
OURS = data_key(Stem("network_events", datetime(2025, 12, 20, tzinfo=UTC), "0" * 16, 1))


@pytest.fixture
async def api(workshop: Workshop, ingestor: Ingestor) -> AsyncIterator[httpx.AsyncClient]:
    app = make_app("test", max_body_bytes=64_000)
    app.include_router(import_router(Importer(ingestor), max_upload_bytes=100_000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as made:
        yield made


def theirs(count: int = 6, **columns: Any) -> bytes:
    """A file as the predecessors wrote it: their six columns, times without a zone."""
    frame = pl.DataFrame(
        {
            "timestamp": [f"2025-12-20T12:00:{n:02d}" for n in range(count)],
            "src_ip": ["10.0.0.1"] * count,
            "dst_ip": ["10.0.0.2"] * count,
            "bytes": list(range(count)),
            "duration": [1.5] * count,
            "protocol": ["TCP"] * count,
            **columns,
        }
    ).with_columns(pl.col("timestamp").str.to_datetime(time_unit="ns"))
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


async def take(api: httpx.AsyncClient, data: bytes, name: str = NAME, **asked: Any) -> dict[str, Any]:
    query = {"uri": f"s3://cybersec-ml/{name}", "at": AT, "dataset": "network_events", **asked}
    answer = await api.put(f"/imports/files/{name}", params=query, content=data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_file_of_theirs_becomes_raw_of_its_own_time_which_is_held_back(
    api: httpx.AsyncClient, workshop: Workshop
) -> None:
    data = theirs(6)
    answer = await take(api, data)
    assert (answer["fate"], answer["rows_in"], answer["rows_raw"]) == ("imported", 6, 6)
    parts = await keys(workshop, Layer.RAW)
    assert [f"s3://test-raw/{key}" for key in parts] == answer["objects"]
    assert len(parts) == 2  # of four rows at most
    for key in parts:
        name = Name.of_key(key)
        assert name is not None
        assert key.startswith("network_events/date=2025-12-20/network_events_20251220_121209_")
        info = await workshop.store.head(Layer.RAW, key)
        assert info is not None
        assert info.metadata[META_HELD] == "import"
        assert info.metadata["acequia-run-id"] == answer["run_id"]
        assert await workshop.store.head(Layer.LEDGER, held_key(Layer.RAW, name.stem))
    accepted, record = await told(workshop)
    assert (accepted.status, record.status) == (Status.ACCEPTED, Status.IMPORTED)
    assert accepted.started.isoformat() == "2025-12-20T12:12:09+00:00"
    (source,) = record.inputs
    assert (source.uri, source.etag) == (URI, hashlib.md5(data).hexdigest())
    assert (source.bytes, source.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    done = await document(workshop, Layer.LEDGER, done_key(UUID(answer["run_id"])))
    assert done["record"]["parameters"]["imported"] == {
        "nombre_archivo": NAME,
        "ruta_minio": f"cybersec-ml/{NAME}",
        "timestamp_ingesta": "2025-12-20T12:12:09+00:00",
    }


async def test_each_part_is_marked_before_its_event_can_be_heard(api: httpx.AsyncClient, workshop: Workshop) -> None:
    steps: list[str] = []
    workshop.at = steps.append
    await take(api, theirs(6))
    seen = [s for s in steps if s in ("ingestor.after_hold", "ingestor.after_part")]
    assert seen == ["ingestor.after_hold", "ingestor.after_part"] * 2
    events = [parse_notification(d.message.body, BUCKETS) for d in await taken(workshop, "acequia.transformer")]
    assert all(META_HELD in event.metadata for event in events)  # type: ignore[union-attr]


async def test_taken_over_again_nothing_is_new(api: httpx.AsyncClient, workshop: Workshop) -> None:
    first = await take(api, theirs())
    before = await keys(workshop, Layer.RAW), await keys(workshop, Layer.LEDGER)
    again = await take(api, theirs())
    assert (again["fate"], again["run_id"]) == ("known", first["run_id"])
    assert (await keys(workshop, Layer.RAW), await keys(workshop, Layer.LEDGER)) == before


async def test_an_import_that_was_cut_off_goes_on_where_it_was(api: httpx.AsyncClient, workshop: Workshop) -> None:
    class CutOff(Exception):
        pass

    seen: list[str] = []

    def cut(step: str) -> None:
        seen.append(step)
        if step == "ingestor.after_part":
            raise CutOff

    workshop.at = cut
    with pytest.raises(CutOff):
        await take(api, theirs(6))
    assert len(await keys(workshop, Layer.RAW)) == 1
    workshop.at = seen.append
    answer = await take(api, theirs(6))
    assert (answer["fate"], answer["rows_raw"], len(answer["objects"])) == ("imported", 6, 2)
    assert len(await keys(workshop, Layer.LEDGER, "held/")) == 2


async def test_a_part_that_was_replayed_while_its_import_was_cut_off_is_not_held_again(
    api: httpx.AsyncClient, workshop: Workshop
) -> None:
    answer = await take(api, theirs(3))
    (mark,) = await keys(workshop, Layer.LEDGER, "held/")
    await workshop.store.remove(Layer.LEDGER, mark)
    await workshop.store.remove(Layer.LEDGER, done_key(UUID(answer["run_id"])))
    assert (await take(api, theirs(3)))["fate"] == "imported"
    assert await keys(workshop, Layer.LEDGER, "held/") == []


async def test_a_file_that_can_not_be_read_is_told_and_left_alone(api: httpx.AsyncClient, workshop: Workshop) -> None:
    short = theirs().replace(b"src_ip", b"srcxip")
    for data, rule in ((b"PAR1 and then nothing", "unreadable"), (short, None), (b"", "empty")):
        answer = await take(api, data)
        assert answer["fate"] == "rejected"
        assert answer["rule"] and answer["reason"]
        assert rule in (None, answer["rule"])
    ledger = [key for key in await keys(workshop, Layer.LEDGER) if not key.startswith("stages/")]
    assert (ledger, await keys(workshop, Layer.RAW), await keys(workshop, Layer.QUARANTINE)) == ([], [], [])
    assert await told(workshop) == []


async def test_rows_that_can_not_be_read_are_counted_and_quarantined(
    api: httpx.AsyncClient, workshop: Workshop
) -> None:
    answer = await take(api, theirs(6, bytes=["1", "2", "many", "4", "5", "6"]))
    assert (answer["rows_in"], answer["rows_raw"], answer["rejected"]) == (6, 5, {"unparsable_bytes": 1})
    assert len(await keys(workshop, Layer.QUARANTINE)) == 1


async def test_content_that_acequia_has_already_is_not_taken_twice(
    api: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop
) -> None:
    data = theirs(3)
    await ingestor.handle(await land(workshop, f"network_events/{NAME}", data))
    (own,) = await keys(workshop, Layer.RAW)
    answer = await take(api, data)
    assert answer["fate"] == "same_content"
    assert answer["same_as"]
    assert await keys(workshop, Layer.RAW) == [own]
    assert await keys(workshop, Layer.LEDGER, "held/") == []


async def test_a_dropped_file_whose_import_was_cut_off_finishes_it_held_back(
    api: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop
) -> None:
    def cut(step: str) -> None:
        if step == "ingestor.after_claim":
            raise RuntimeError(step)

    workshop.at = cut
    with pytest.raises(RuntimeError):
        await take(api, theirs(3))
    workshop.at = lambda step: None
    await ingestor.handle(await land(workshop, f"network_events/{NAME}", theirs(3)))
    (key,) = await keys(workshop, Layer.RAW)
    info = await workshop.store.head(Layer.RAW, key)
    assert info is not None
    assert META_HELD in info.metadata
    assert len(await keys(workshop, Layer.LEDGER, "held/")) == 1
    assert (await take(api, theirs(3)))["fate"] == "known"


async def test_a_dry_run_tells_the_same_and_stores_nothing(api: httpx.AsyncClient, workshop: Workshop) -> None:
    foreseen = await take(api, theirs(), dry_run=True)
    assert [k for k in await keys(workshop, Layer.LEDGER) if not k.startswith("stages/")] == []
    done = await take(api, theirs())
    assert {**foreseen, "objects": done["objects"]} == done
    copy = await take(api, theirs(), name="network_events_20251221_000000.parquet", dry_run=True)
    assert (copy["fate"], copy["same_as"]) == ("same_content", done["run_id"])
    assert (await take(api, theirs(), dry_run=True))["fate"] == "known"


async def test_what_their_table_says_of_a_file_is_kept_with_it(api: httpx.AsyncClient, workshop: Workshop) -> None:
    listed = {"id": "7", "name": NAME, "rows": 10, "status": "exitoso", "at": "2025-12-20T12:12:30Z"}
    answer = await take(api, theirs(), listed=json.dumps(listed))
    done = await document(workshop, Layer.LEDGER, done_key(UUID(answer["run_id"])))
    assert done["record"]["parameters"]["imported"] == {
        "id": "7",
        "nombre_archivo": NAME,
        "ruta_minio": f"cybersec-ml/{NAME}",
        "num_registros": 10,
        "estado": "exitoso",
        "timestamp_ingesta": "2025-12-20T12:12:30+00:00",
    }


async def test_a_row_whose_file_is_gone_becomes_a_record_once(api: httpx.AsyncClient, workshop: Workshop) -> None:
    row = {"id": "3", "path": "cybersec-ml/gone.parquet", "rows": 10, "status": "exitoso", "at": AT}
    asked = {"dataset": "network_events", "rows": [row, {**row, "id": "4"}]}
    dry = await api.post("/imports/rows", json={**asked, "dry_run": True})
    assert dry.json() == {"imported": 2, "known": 0}
    assert await told(workshop) == []
    assert (await api.post("/imports/rows", json=asked)).json() == {"imported": 2, "known": 0}
    assert (await api.post("/imports/rows", json=asked)).json() == {"imported": 0, "known": 2}
    records = [r for r in await told(workshop) if r.status is Status.IMPORTED]
    assert len({r.run_id for r in records}) == 2
    for record in records:
        done = await document(workshop, Layer.LEDGER, done_key(record.run_id))
        assert done["record"]["event_id"] == str(record.event_id)
        assert record.parameters["imported"]["nombre_archivo"] == "gone.parquet"
    assert await keys(workshop, Layer.RAW) == []


async def test_a_row_that_was_taken_over_before_its_file_is_not_listed_twice(
    api: httpx.AsyncClient, workshop: Workshop
) -> None:
    row = {"id": "3", "name": NAME, "rows": 10, "status": "exitoso", "at": AT}
    await api.post("/imports/rows", json={"dataset": "network_events", "rows": [row]})
    answer = await take(api, theirs(), listed=json.dumps(row))
    done = await document(workshop, Layer.LEDGER, done_key(UUID(answer["run_id"])))
    assert await workshop.store.head(
        Layer.LEDGER, done_key(UUID(done["record"]["parameters"]["imported"]["listed_as"]))
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"dataset": "nothing_of_ours"}, "no dataset has this name"),
        ({"dataset": "a_table"}, "load its table"),
        ({"uri": "http://elsewhere/x.parquet"}, "neither s3:// nor file://"),
        ({"uri": "s3://test-silver/x.parquet"}, "Acequia's own"),
        ({"uri": f"s3://test-raw/{OURS}"}, "Acequia's own"),
        ({"listed": '{"rows": "some"}'}, "rows"),
    ],
)
async def test_what_can_not_be_taken_over_is_refused_with_the_reason(
    api: httpx.AsyncClient, workshop: Workshop, asked: dict[str, str], says: str
) -> None:
    events = workshop.registry["network_events"]
    table = replace(events, name="a_table", key=("src_ip",), readers=frozenset())
    workshop.registry = Registry({"network_events": events, "a_table": table})
    query = {"uri": URI, "at": AT, "dataset": "network_events", **asked}
    answer = await api.put(f"/imports/files/{NAME}", params=query, content=theirs())
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


async def test_rows_without_a_time_are_refused(api: httpx.AsyncClient) -> None:
    answer = await api.post("/imports/rows", json={"dataset": "network_events", "rows": [{"name": "x"}]})
    assert (answer.status_code, "needs a time" in answer.json()["detail"]) == (422, True)


async def test_a_file_that_is_too_large_is_refused(api: httpx.AsyncClient) -> None:
    query = {"uri": URI, "at": AT, "dataset": "network_events"}
    answer = await api.put(f"/imports/files/{NAME}", params=query, content=b"x" * 100_001)
    assert answer.status_code == 413


async def test_who_asks_is_told_which_objects_are_known(api: httpx.AsyncClient) -> None:
    data = theirs()
    await take(api, data)
    etag = hashlib.md5(data).hexdigest()
    asked = {"objects": [{"uri": URI, "etag": etag}, {"uri": URI, "etag": "another"}, {"uri": URI + "x", "etag": etag}]}
    assert (await api.post("/imports/known", json=asked)).json() == {"known": [True, False, False]}


async def test_a_file_of_landing_is_ingested_once_by_either_way(
    api: httpx.AsyncClient, ingestor: Ingestor, workshop: Workshop
) -> None:
    """The reconciler asks for `done` under the same id."""
    delivery = await land(workshop, NAME, theirs(3))
    info = await workshop.store.head(Layer.LANDING, NAME)
    assert info is not None
    answer = await take(api, theirs(3), uri=info.uri, etag=info.etag)
    assert answer["run_id"] == str(landing_done_id("test-landing", NAME, info.etag))
    await told(workshop)
    await ingestor.handle(delivery)
    assert {r.status for r in await told(workshop)} == {Status.IMPORTED}
    assert len(await keys(workshop, Layer.RAW)) == 1


async def test_a_time_that_can_not_be_is_no_time_of_a_stem(api: httpx.AsyncClient, workshop: Workshop) -> None:
    answer = await take(api, theirs(3), at="2999-01-01T00:00:00Z")
    (key,) = await keys(workshop, Layer.RAW)
    name = Name.of_key(key)
    assert name is not None
    assert name.stem.at.year < 2999
    assert answer["fate"] == "imported"


async def test_the_claim_says_what_content_was_taken_over(api: httpx.AsyncClient, workshop: Workshop) -> None:
    answer = await take(api, theirs(3))
    (claim,) = await keys(workshop, Layer.LEDGER, "claims/network_events/")
    said = await document(workshop, Layer.LEDGER, claim)
    assert claim == claim_key("network_events", said["digest"])
    assert (said["run_id"], said["imported"]["nombre_archivo"]) == (answer["run_id"], NAME)


async def test_other_columns_of_theirs_are_left_out(api: httpx.AsyncClient, workshop: Workshop) -> None:
    await take(api, theirs(3, is_anomaly=[True, False, False]))
    (key,) = await keys(workshop, Layer.RAW)
    found = await workshop.store.read(Layer.RAW, key)
    assert found is not None
    frame = pl.read_parquet(io.BytesIO(found[0]))
    assert "is_anomaly" not in frame.columns
    assert frame["protocol"].to_list() == ["tcp"] * 3
