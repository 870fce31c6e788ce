"""Whatever a message, a key or an object's metadata says: it is understood, ignored, or rejected with a reason."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from acequia.cards import parse_card
from acequia.errors import RejectedInput
from acequia.events import (
    META_RECORD,
    Ignored,
    IngestionCommand,
    ObjectCreated,
    parse_notification,
    to_notification,
    told_rows,
    unfold_record,
    valid_traceparent,
)
from acequia.layers import (
    Buckets,
    Layer,
    Name,
    Stem,
    check_key,
    data_key,
    folder_key,
    is_variant,
    run_id_of,
    variant_version,
)
from acequia_evaluator.gate import parse_champion
from acequia_ingestor.api import IngestionRequest, keyed_run_id
from acequia_ingestor.parse import ParseOptions

QUICK = settings(max_examples=150, deadline=None)
BUCKETS = Buckets("p")
text = st.text(max_size=60)
tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def notifications(draw: st.DrawFn) -> bytes:
    """A notification of a store, with anything in the place of one or two of its parts."""
    entity: dict[str, Any] = {"key": draw(text), "size": 1, "eTag": "e", "userMetadata": {"X-Amz-Meta-A": "b"}}
    record: dict[str, Any] = {
        "eventName": "s3:ObjectCreated:Put",
        "s3": {"bucket": {"name": "p-raw"}, "object": entity},
    }
    whole: dict[str, Any] = {"EventName": "s3:ObjectCreated:Put", "Key": "x", "Records": [record]}
    places = [
        (whole, "EventName"),
        (whole, "Records"),
        (record, "s3"),
        (record["s3"], "bucket"),
        (record["s3"], "object"),
    ]
    places += [(entity, name) for name in entity] + [(record, "eventName"), (record["s3"]["bucket"], "name")]
    for place, name in draw(st.lists(st.sampled_from(places), max_size=2)):
        place[name] = draw(tree)
    return json.dumps(whole).encode()


@QUICK
@given(body=st.one_of(notifications(), st.binary(max_size=80), tree.map(lambda t: json.dumps(t).encode())))
def test_any_message_is_an_event_is_ignored_or_is_rejected(body: bytes) -> None:
    try:
        event = parse_notification(body, BUCKETS)
    except RejectedInput as rejected:
        assert rejected.rule == "malformed_event"
        return
    assert isinstance(event, ObjectCreated | Ignored)
    if isinstance(event, ObjectCreated):
        assert BUCKETS.layer(event.bucket) is event.layer
        assert parse_notification(to_notification(event), BUCKETS) == event


@QUICK
@given(
    key=text,
    layer=st.sampled_from(Layer),
    metadata=st.dictionaries(st.from_regex(r"[a-z-]{1,9}", fullmatch=True), text),
)
def test_an_event_is_read_as_it_was_written(key: str, layer: Layer, metadata: dict[str, str]) -> None:
    event = ObjectCreated(layer=layer, bucket=BUCKETS.of(layer), key=key, etag="e", size=1, metadata=metadata)
    assert parse_notification(to_notification(event), BUCKETS) == event


@QUICK
@given(body=st.one_of(st.binary(max_size=80), tree.map(lambda t: json.dumps(t).encode())))
def test_any_other_document_is_read_or_rejected(body: bytes) -> None:
    with pytest.raises(RejectedInput, match="malformed_card"):
        parse_card(body)
    assert parse_champion(body) is None
    for model in (IngestionCommand, IngestionRequest):
        with pytest.raises(ValidationError):
            model.model_validate_json(body)


stems = st.one_of(
    st.builds(
        Stem,
        st.from_regex(r"[a-z0-9]{1,9}(_[a-z0-9]{1,9})?", fullmatch=True),
        st.datetimes(datetime(1000, 1, 1), datetime(9999, 1, 1)).map(lambda d: d.replace(microsecond=0, tzinfo=UTC)),  # noqa: DTZ001
        st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
        st.none() | st.integers(0, 10**6),
    ),
    st.builds(Stem, st.just("network_events"), st.just(datetime(2025, 1, 1, tzinfo=UTC)), plan=st.integers(0, 10**8)),
)
variants = st.from_regex(r"v[0-9]{1,4}-[0-9a-f]{6}", fullmatch=True)


@QUICK
@given(stem=stems, variant=variants)
def test_names_are_read_as_they_were_written(stem: Stem, variant: str) -> None:
    assert Stem.parse(str(stem)) == stem
    assert Name.of_key(data_key(stem)) == Name(stem)
    assert Name.of_key(data_key(stem, variant)) == Name(stem, variant)
    assert Name.of_key(folder_key(stem, variant, "model.json")) == Name(stem, variant)
    assert is_variant(variant)
    assert variant_version(variant) == int(variant[1:].split("-", maxsplit=1)[0])
    check_key(data_key(stem, variant))


pieces = st.lists(
    st.sampled_from(
        ["network_events", "_", "20251220", "2025", "121209", "99", "9f2c4e1a7b3d5e60", "0001", "plan", "v1-aaaaaa"]
    )
    | st.sampled_from([".", "/", "date=2025-12-20", ".parquet", "model.json", "\u0661", "\n", " "]),
    max_size=12,
).map("".join)


@QUICK
@given(words=st.one_of(pieces, text))
def test_any_text_is_a_name_with_one_spelling_or_none(words: str) -> None:
    stem = Stem.parse(words)
    assert stem is None or str(stem) == words
    name = Name.of_key(words)
    if name is not None:
        spelled = {data_key(name.stem, name.variant)}
        if name.variant:
            spelled |= {folder_key(name.stem, name.variant, file) for file in ("model.json", "evaluation.json")}
        assert words in spelled


@QUICK
@given(key=st.one_of(text, st.text(alphabet="a./\0 ", max_size=12), st.text("k", min_size=200, max_size=300)))
def test_any_key_can_be_stored_or_is_rejected(key: str) -> None:
    try:
        check_key(key)
    except RejectedInput as rejected:
        assert rejected.rule == "bad_key"
        return
    assert not {"", ".", ".."} & set(key.split("/"))
    assert len(key.encode()) <= 1024


@QUICK
@given(metadata=st.dictionaries(st.sampled_from([META_RECORD, "acequia-rows", "acequia-run-id", "traceparent"]), text))
def test_any_metadata_does_no_harm(metadata: dict[str, str]) -> None:
    assert unfold_record(metadata, uri="s3://b/k", etag="e", size=1) is None
    rows = told_rows(metadata)
    assert rows is None or 0 <= rows < 10**15
    assert valid_traceparent(metadata.get("traceparent")) is None
    run_id = run_id_of(metadata.get("acequia-run-id"), "b", "k", "e")
    assert isinstance(run_id, UUID)
    assert run_id == run_id_of(metadata.get("acequia-run-id"), "b", "k", "e")


@QUICK
@given(first=st.tuples(text, text, st.none() | text), second=st.tuples(text, text, st.none() | text))
def test_a_claim_and_a_run_are_one_s_own(
    first: tuple[str, str, str | None], second: tuple[str, str, str | None]
) -> None:
    def claim(content: str, dataset: str, format: str | None) -> str:
        return ParseOptions(dataset, format).claim_digest(content)

    same_claim = claim(*first) == claim(*second)
    # the content is a digest: it holds no line end
    assert same_claim == (first == second) or "\n" in first[0] + second[0]
    if first[0] and second[0]:
        assert (keyed_run_id(first[0]) == keyed_run_id(second[0])) == (first[0] == second[0])
