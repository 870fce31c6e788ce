"""Each case of the table: a clear reason, the service alive, the next good object processed."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from acequia.events import AuditRecord, Status
from acequia.layers import Layer, data_key, folder_key
from acequia.topology import COMMANDS, OBJECTS
from hostile.cases import CASES, EVIL, FEATURES, RUN, Case, Forged, Ignored, Noted, Quarantined, Refused, Taken
from hostile.conftest import Home

pytestmark = pytest.mark.asyncio(loop_scope="module")

VARIANT = "v1-0dd0dd"
LAYERS = {"raw": Layer.RAW, "silver": Layer.SILVER}


def sent() -> list[Any]:
    """Each case with the way it is sent; a file goes both ways."""
    ways = [(case, way) for case in CASES for way in (("upload", "landing") if case.door == "file" else (case.door,))]
    return [
        pytest.param(case, way, id=f"{case.name}, {way}" if case.door == "file" else case.name) for case, way in ways
    ]


@pytest.mark.parametrize(("case", "way"), sent())
async def test_it_is_told_clearly_and_the_next_object_is_processed(home: Home, case: Case, way: str) -> None:
    match way:
        case "upload":
            await uploaded(home, case)
        case "landing":
            await landed(home, case)
        case "request":
            refused(case, await home.client.post("/ingestions", content=content_of(home, case), headers=JSON))
        case "message":
            await sent_to(home, case, OBJECTS, "object.landing")
        case "command":
            await sent_to(home, case, COMMANDS, "ingest")
        case "model":
            await forged_model(home, case)
        case _:
            await put_into(home, case, LAYERS[way])
    assert (await home.client.get("/health")).status_code == 200
    late = way in ("silver", "model")
    await home.processes_a_good_object(until="evaluator" if late else "transformer")


async def test_after_all_of_that_nothing_is_dead_and_nothing_lies_about(home: Home) -> None:
    await home.processes_a_good_object(until="evaluator")
    dead = (await home.client.get("/dead-letters", params={"state": "all"})).json()
    assert not dead.get("dead_letters", dead), dead
    assert not [record for record in home.heard if record.status in (Status.FAILED, Status.DEAD)]
    assert home.left_behind() == []
    ready = await home.client.get("/ready")
    assert ready.status_code == 200, ready.text


JSON = {"content-type": "application/json"}


def content_of(home: Home, case: Case) -> bytes:
    content = case.make(home.number())
    assert isinstance(content, bytes)
    return content.replace(b"{prefix}", home.workshop.buckets.prefix.encode())


async def uploaded(home: Home, case: Case) -> None:
    params = {"dataset": case.dataset} | ({"format": case.format} if case.format else {})
    after = len(home.heard)
    url = home.client.base_url.join(f"/ingestions/files/{case.file}").copy_merge_params(params)
    answer = await home.client.put(url, content=content_of(home, case))
    if isinstance(case.expected, Refused):
        refused(case, answer)
        return
    assert answer.status_code == 202, answer.text
    await comes_to_its_end(home, case, UUID(answer.json()["run_id"]), after)


async def landed(home: Home, case: Case) -> None:
    number = home.number()
    key = case.file if case.door == "landing" else f"{case.dataset}/dropped/{number}/{case.file}"
    metadata = dict(case.metadata) | ({"acequia-format": case.format} if case.format else {})
    after = len(home.heard)
    _, run_id = await home.land(key, content_of(home, case), metadata)
    assert ("acequia-run-id" in metadata and metadata["acequia-run-id"] == str(RUN)) == (run_id == RUN)
    await comes_to_its_end(home, case, run_id, after)


async def comes_to_its_end(home: Home, case: Case, run_id: UUID, after: int) -> None:
    """Of a file: the manifest that says why, or the rows that went on."""
    expected = case.expected
    if isinstance(expected, Taken):
        done = await home.told(outcome("ingestor", run_id), case.name, after)
        assert done.status is Status.SUCCESS, done.error
        assert (done.rows_out, dict(done.rejected)) == (expected.rows, dict(expected.rejected))
        assert done.rows_in == done.rows_out + sum(done.rejected.values())
        return
    assert isinstance(expected, Quarantined)
    rejected = await home.told(outcome(expected.stage, run_id), case.name, after)
    await is_quarantined(home, expected, rejected)
    page = (await home.client.get(f"/ingestions/{run_id}")).json()
    assert page["run_id"] == str(run_id)


def outcome(stage: str, run_id: UUID) -> Any:
    ended = (Status.SUCCESS, Status.REJECTED, Status.SAME_CONTENT)
    return lambda record: record.stage == stage and record.run_id == run_id and record.status in ended


async def is_quarantined(home: Home, expected: Quarantined, record: AuditRecord) -> None:
    assert record.status is Status.REJECTED, f"{record.status} {record.error}"
    assert record.error is not None
    manifest = await home.manifest(record)
    assert manifest["rule"] == record.error.rule == expected.rule, manifest
    assert expected.words in manifest["reason"]
    assert len(manifest["reason"].split()) > 2, "a sentence for a person"
    assert len(manifest["reason"]) < 2000


def refused(case: Case, answer: Any) -> None:
    assert isinstance(case.expected, Refused)
    assert answer.status_code == case.expected.status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert case.expected.words.lower() in problem["detail"].lower()


async def sent_to(home: Home, case: Case, exchange: str, key: str) -> None:
    expected, after = case.expected, len(home.heard)
    before = home.ignored("ingestor", expected.reason) if isinstance(expected, Ignored) else 0.0
    message_id = await home.send(exchange, key, content_of(home, case))
    if isinstance(expected, Ignored):
        await home.processes_a_good_object()  # one behind the other: it was looked at by now
        assert home.ignored("ingestor", expected.reason) == before + 1
        return
    assert isinstance(expected, Noted)
    is_noted(expected, await home.told(lambda record: record.message_id == message_id, case.name, after))


def is_noted(expected: Noted, record: AuditRecord) -> None:
    assert record.error is not None
    assert (record.error.rule or record.status.value) == expected.rule, record.error
    assert record.status in (Status.REJECTED, Status.GONE)
    assert expected.words in record.error.message


async def put_into(home: Home, case: Case, layer: Layer) -> None:
    """An object of RAW or SILVER that is not from us."""
    if layer is Layer.SILVER:  # the plan that covers it shall cover nothing else
        await home.processes_a_good_object(until="evaluator")
    stem = home.stem()
    key = data_key(stem, VARIANT if layer is Layer.SILVER else None) if case.file == "events.csv" else case.file
    after = len(home.heard)
    info = await home.workshop.store.put(
        layer, key, content_of(home, case), metadata=case.metadata, content_type="application/octet-stream"
    )

    def about_it(record: AuditRecord) -> bool:
        mine = any(i.uri == info.uri for i in record.inputs) and record.stage != "ingestor"
        return mine and record.status not in (Status.PLANNED, Status.ACCEPTED)

    record = await home.told(about_it, case.name, after)
    match case.expected:
        case Quarantined():
            assert record.stage == case.expected.stage
            await is_quarantined(home, case.expected, record)
        case Noted():
            is_noted(case.expected, record)
        case _:
            assert isinstance(case.expected, Taken)
            assert (record.status, record.rows_in) == (Status.SUCCESS, case.expected.rows)


async def forged_model(home: Home, case: Case) -> None:
    """A card, and a file beside it, that the trainer did not write."""
    forged = case.make(home.number())
    assert isinstance(forged, Forged)
    card, artifact = await home.genuine_card()
    stem, document = home.stem(plan=True), card.model_dump(mode="json")
    artifact = artifact if forged.artifact is None else forged.artifact
    if not forged.as_it_is:
        key = folder_key(stem, VARIANT, "model-0123456789abcdef.skops")
        if not forged.leave_out:
            await home.workshop.store.put(Layer.MODELS, key, artifact, metadata={}, content_type="x/y")
        digest = forged.sha256 or hashlib.sha256(artifact).hexdigest()
        document["artifact"] = {"key": key, "sha256": digest, "bytes": len(artifact)}
        document = merged(document, forged.change)
    body = forged.card if forged.card is not None else json.dumps(document).encode()
    after = len(home.heard)
    info = await home.workshop.store.put(
        Layer.MODELS, folder_key(stem, VARIANT, "model.json"), body, metadata={}, content_type="application/json"
    )
    record = await home.told(
        lambda r: r.stage == "evaluator" and any(i.uri == info.uri for i in r.inputs), case.name, after
    )
    assert isinstance(case.expected, Quarantined)
    await is_quarantined(home, case.expected, record)
    assert not Path(tempfile.gettempdir(), EVIL).exists(), "a stranger's code was run"


def merged(document: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: merged(value, change[name]) if isinstance(change.get(name), Mapping) else change.get(name, value)
        for name, value in document.items()
    }


async def test_the_features_of_the_table_are_those_that_models_are_trained_on(home: Home) -> None:
    assert home.workshop.registry["network_events"].features == FEATURES
