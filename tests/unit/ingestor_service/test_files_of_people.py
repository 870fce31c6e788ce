"""How a file is read: said at its upload, told in its record, and part of what makes it the same file again."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import polars as pl
import pytest

from acequia.errors import TransientFailure
from acequia.events import AuditRecord, Kind, Status, parse_notification
from acequia.layers import Layer
from acequia.ports import Ack
from acequia.runner import Workshop
from acequia_ingestor.formats import load_formats
from acequia_ingestor.ingest import Ingestor
from acequia_ingestor.settings import IngestorSettings

from .conftest import BUCKETS, QUEUE, keys, land, taken, told

EVENTS = b"Inicio;Tipo;Comentario;Rara\n03/04/2025;Paro;uno;x\n05/06/2025;Falla;dos;y\n"
NAME = "Eventos_AYATSIL-7_all.csv"


async def outcome(workshop: Workshop) -> AuditRecord:
    """The outcome of the file that came last."""
    return [record for record in await told(workshop) if record.kind is Kind.OUTCOME][-1]


async def raw(workshop: Workshop, tmp_path: Path) -> pl.DataFrame:
    """All of RAW, in the order of its keys."""
    frames = []
    for number, key in enumerate(await keys(workshop, Layer.RAW)):
        await workshop.store.get(Layer.RAW, key, tmp_path / f"{number}.parquet")
        frames.append(pl.read_parquet(tmp_path / f"{number}.parquet"))
    return pl.concat(frames)


async def test_a_file_dropped_without_a_word_is_read_by_its_content_and_its_record_tells_how(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    assert await ingestor.handle(await land(workshop, NAME, EVENTS)) == Ack()
    record = await outcome(workshop)
    assert (record.status, record.dataset, record.rows_in, record.rows_out) == (Status.SUCCESS, "eventos", 2, 2)
    assert record.parameters["csv"] == {
        "dates": "dmy", "decimal": ",", "encoding": "utf-8", "separator": ";", "timezone": "UTC",
    }  # fmt: skip
    assert record.parameters["csv_told_by"]["dates"] == "default"
    assert record.parameters["columns_ignored"] == ["Rara"]
    assert (await raw(workshop, tmp_path))["well"].to_list() == ["AYATSIL-7"] * 2


async def test_what_is_said_at_the_upload_goes_with_the_file(
    ingestor: Ingestor, client: httpx.AsyncClient, workshop: Workshop, tmp_path: Path
) -> None:
    answer = await client.put(
        f"/ingestions/files/{NAME}", content=EVENTS, params={"csv": "dates=mdy, separator=semicolon"}
    )
    assert answer.status_code == 202, answer.text
    (delivery,) = await taken(workshop, QUEUE)
    event = parse_notification(delivery.message.body, BUCKETS)
    info = await workshop.store.head(Layer.LANDING, event.key)  # type: ignore[union-attr]
    assert info is not None
    assert info.metadata["acequia-csv"] == "dates=mdy,separator=;"
    await told(workshop)
    await ingestor.handle(delivery)
    record = await outcome(workshop)
    assert {name for name, by in record.parameters["csv_told_by"].items() if by == "upload"} == {"dates", "separator"}
    assert (await raw(workshop, tmp_path))["started_at"].dt.month().to_list() == [3, 5]


async def test_options_that_are_none_are_refused_before_anything_is_stored(
    client: httpx.AsyncClient, workshop: Workshop
) -> None:
    for params in (
        {"csv": "dates=ydm"},
        {"csv": "color=red"},
        {"csv": "decimal=,", "dataset": "network_events", "format": "zeek_tsv"},
    ):
        answer = await client.put(f"/ingestions/files/{NAME}", content=EVENTS, params=params)
        assert answer.status_code == 422
        assert answer.json()["title"] == "bad csv options"
    assert await keys(workshop, Layer.LANDING) == []


async def test_an_idempotency_key_stands_for_the_options_too(client: httpx.AsyncClient) -> None:
    async def put(csv: str | None) -> httpx.Response:
        params = {"csv": csv} if csv else {}
        return await client.put(
            f"/ingestions/files/{NAME}", content=EVENTS, params=params, headers={"Idempotency-Key": "k"}
        )

    first = await put("dates=mdy")
    assert (await put(" dates = mdy")).json()["run_id"] == first.json()["run_id"]
    assert (await put("dates=dmy")).status_code == (await put(None)).status_code == 422


async def test_saying_what_the_file_tells_anyway_makes_it_no_other_file(ingestor: Ingestor, workshop: Workshop) -> None:
    content = EVENTS.replace(b"03/04", b"30/04")
    await ingestor.handle(await land(workshop, NAME, content))
    assert (await outcome(workshop)).status is Status.SUCCESS
    await ingestor.handle(await land(workshop, f"eventos/{NAME}", content, acequia_csv="separator=;,dates=dmy"))
    assert (await outcome(workshop)).status is Status.SAME_CONTENT
    await ingestor.handle(await land(workshop, f"again/{NAME}", content, acequia_csv="timezone=America/Mexico_City"))
    assert (await outcome(workshop)).status is Status.SUCCESS


async def test_the_same_bytes_under_another_wells_name_are_that_wells(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    for name in (NAME, "Eventos_AYATSIL-8_all.csv"):
        await ingestor.handle(await land(workshop, name, EVENTS))
        assert (await outcome(workshop)).status is Status.SUCCESS
    assert sorted((await raw(workshop, tmp_path))["well"]) == ["AYATSIL-7"] * 2 + ["AYATSIL-8"] * 2


async def test_a_name_that_is_used_again_for_other_content_is_another_file(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    for content in (EVENTS, EVENTS + b"07/08/2025;Paro;tres;z\n"):
        await ingestor.handle(await land(workshop, NAME, content))
        assert (await outcome(workshop)).status is Status.SUCCESS
    assert (await raw(workshop, tmp_path)).height == 5


async def test_who_finishes_another_ones_file_reads_it_as_that_one_did(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    """The first died after it had pinned how the file is read; a second process, of whatever mind, comes for it."""

    def die(step: str) -> None:
        if step == "ingestor.after_claim":
            workshop.at = lambda _: None
            raise TransientFailure("cut off", dependency="test")

    workshop.at = die
    delivery = await land(workshop, NAME, EVENTS, acequia_csv="dates=mdy", acequia_run_id=str(UUID(int=1)))
    await ingestor.handle(delivery)
    assert await keys(workshop, Layer.RAW) == []
    other = Ingestor(workshop, IngestorSettings(rows_per_part=1), load_formats())
    await other.handle(delivery)
    assert (await raw(workshop, tmp_path))["started_at"].dt.month().to_list() == [3, 5]
    assert len(await keys(workshop, Layer.RAW)) == 1


@pytest.mark.parametrize(
    ("content", "metadata", "rule"),
    [
        (b"Inicio;Tipo;Tipo de evento\n1/1/2025;a;b\n", {}, "duplicate_columns"),
        (EVENTS, {"acequia_csv": "dates=never"}, "csv_options"),
        (b"Inicio;Tipo\nnunca;a\n", {}, "no_rows"),
    ],
)
async def test_a_file_that_is_no_good_is_rejected_under_its_dataset(
    ingestor: Ingestor, workshop: Workshop, content: bytes, metadata: dict[str, Any], rule: str
) -> None:
    assert await ingestor.handle(await land(workshop, NAME, content, **metadata)) == Ack()
    record = await outcome(workshop)
    assert (record.status, record.dataset) == (Status.REJECTED, "eventos")
    assert record.error is not None
    assert record.error.rule == rule
    assert await keys(workshop, Layer.RAW) == []
    (manifest,) = [key for key in await keys(workshop, Layer.QUARANTINE) if key.endswith(".rejected.json")]
    assert "/eventos/" in manifest


async def test_two_files_at_once_are_not_in_each_others_way(
    ingestor: Ingestor, workshop: Workshop, tmp_path: Path
) -> None:
    files = {f"Eventos_AYATSIL-{n}_all.csv": EVENTS + f"0{n}/01/2025;Paro;{n};\n".encode() for n in range(1, 9)}
    deliveries = [await land(workshop, name, content) for name, content in files.items()]
    assert await asyncio.gather(*map(ingestor.handle, deliveries)) == [Ack()] * 8
    assert (await raw(workshop, tmp_path)).group_by("well").len().sort("well")["len"].to_list() == [3] * 8
