"""What is said on the wire: `ObjectCreated`, `IngestionCommand`, `AuditRecord`.

The only place that parses the store's notification JSON, and the only place that knows how a record is folded
into an object's user metadata. No raw dict goes further.
"""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import quote_plus, unquote_plus
from uuid import UUID, uuid5

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from acequia.errors import RejectedInput
from acequia.layers import CANARY_PREFIX, NAMESPACE, Buckets, Layer

SCHEMA_VERSION = 1

META_RUN_ID = "acequia-run-id"
META_DATASET = "acequia-dataset"
META_FORMAT = "acequia-format"
META_CSV = "acequia-csv"
"""On a file in LANDING: how it is to be read, as `separator=;,decimal=,`."""
META_STAGE_VERSION = "acequia-stage-version"
META_ROWS = "acequia-rows"
META_TIME_MIN = "acequia-time-min"
META_TIME_MAX = "acequia-time-max"
META_LOAD = "acequia-load"
"""On RAW and SILVER objects of a table: see `Load`."""
META_BLOCKED = "acequia-blocked"
"""On RAW objects that go no further: the names of the checks that say so, with commas."""
META_HELD = "acequia-held"
"""On RAW objects that were taken over from elsewhere: their readers leave them alone while the mark `layers.held_key`
stands."""
META_TRACEPARENT = "traceparent"
META_RECORD = "acequia-record"
METADATA_LIMIT = 2048
"""Bytes of user metadata that a store takes, as `metadata_size` counts them."""
OTHER_RULES = "other_rules"
"""Stands for the rarest rules where a record has no room to name each."""

_LOAD = re.compile(r"([1-9][0-9]{0,15})\.(full|changes)\.([1-9][0-9]{0,6})(?:of([1-9][0-9]{0,6}))?")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_CREATED = frozenset(f"s3:ObjectCreated:{act}" for act in ("Put", "Post", "Copy", "CompleteMultipartUpload"))


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ObjectCreated(Frozen):
    """An object has come to a layer."""

    schema_version: Literal[1] = 1
    layer: Layer
    bucket: str
    key: str
    etag: str
    size: int | None = None
    metadata: Mapping[str, str] = Field(default_factory=dict)
    """User metadata, names in lower case and without `x-amz-meta-`."""

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Ignored(Frozen):
    """A notification that is none of our business: acknowledged and counted."""

    reason: str


def parse_notification(body: bytes, buckets: Buckets) -> ObjectCreated | Ignored:
    """The store's JSON as an `ObjectCreated`. Raises RejectedInput (`malformed_event`) where it makes no sense."""
    try:
        document = json.loads(body)
        if document.get("Event") == "s3:TestEvent":
            return Ignored(reason="test event")
        record = document["Records"][0]
        name: str = document.get("EventName") or "s3:" + record["eventName"].removeprefix("s3:")
        if name not in _CREATED:
            return Ignored(reason=f"event {name}")
        bucket: str = record["s3"]["bucket"]["name"]
        entity = record["s3"]["object"]
        if (layer := buckets.layer(bucket)) is None:
            return Ignored(reason="another bucket")
        if (key := unquote_plus(entity["key"])).startswith(CANARY_PREFIX):
            return Ignored(reason="canary")
        metadata = {
            k.lower().removeprefix("x-amz-meta-"): str(v) for k, v in (entity.get("userMetadata") or {}).items()
        }
        return ObjectCreated(
            layer=layer,
            bucket=bucket,
            key=key,
            etag=str(entity.get("eTag") or "").strip('"'),
            size=entity.get("size"),
            metadata=metadata,
        )
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise RejectedInput("malformed_event", f"not a notification of an object store: {error!r}") from error


def to_notification(event: ObjectCreated) -> bytes:
    """The same event as the store would have sent it: what the embedded store and the reconciler send."""
    return json.dumps(
        {
            "EventName": "s3:ObjectCreated:Put",
            "Key": f"{event.bucket}/{event.key}",
            "Records": [
                {
                    "eventName": "s3:ObjectCreated:Put",
                    "s3": {
                        "bucket": {"name": event.bucket},
                        "object": {
                            "key": quote_plus(event.key),
                            "size": event.size,
                            "eTag": event.etag,
                            "userMetadata": {f"X-Amz-Meta-{k}": v for k, v in event.metadata.items()},
                        },
                    },
                }
            ],
        }
    ).encode()


class Load(Frozen):
    """Which part of which load of a table an object holds: `7.changes.1of1`, `8.full.3`.

    Loads of a table are numbered in the order in which they began. `full`: the table's rows are just those of the
    load's parts; `changes`: rows that are new, changed or gone.
    """

    number: int
    full: bool
    part: int
    parts: int | None = None
    """How many parts the load has. Only its last part knows."""

    def __str__(self) -> str:
        return f"{self.number}.{'full' if self.full else 'changes'}.{self.part}" + (
            f"of{self.parts}" if self.parts else ""
        )

    @classmethod
    def parse(cls, text: str | None) -> "Load | None":
        """What META_LOAD says; None where it says nothing of ours."""
        if text is None or (match := _LOAD.fullmatch(text)) is None:
            return None
        number, kind, part, parts = match.groups()
        return cls(number=int(number), full=kind == "full", part=int(part), parts=int(parts) if parts else None)


class SourceRequest(Frozen):
    """Where rows come from that no file holds. `kind` names the source; what else it may say stands in that source's
    own file, which reads it again."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str


class Scheduled(Frozen):
    """The schedule that a command came from."""

    name: str
    due: datetime | None
    """The time it was fired for. None: somebody fired it by hand."""


class IngestionCommand(Frozen):
    """What to ingest and how. Durable in LEDGER before it is answered."""

    schema_version: Literal[1] = 1
    run_id: UUID
    dataset: str
    source: SourceRequest
    accepted_at: datetime
    fingerprint: str
    """sha256 of dataset and source: tells the same request from another under one Idempotency-Key."""
    rows_per_part: int = 1_000_000
    """Pinned at acceptance: who carries the command out later writes the same parts."""
    schedule: Scheduled | None = None
    traceparent: str | None = None


class Status(StrEnum):
    ACCEPTED = "ACCEPTED"
    PLANNED = "PLANNED"
    SUCCESS = "SUCCESS"
    REJECTED = "REJECTED"
    IMPORTED = "IMPORTED"
    """Taken over from a predecessor: known, and held back until somebody replays it."""
    SAME_CONTENT = "SAME_CONTENT"
    SUPERSEDED = "SUPERSEDED"
    GONE = "GONE"
    FAILED = "FAILED"
    DEAD = "DEAD"
    REPLAYED = "REPLAYED"
    """A person sent a dead letter's message again."""
    DISCARDED = "DISCARDED"
    """A person said that a dead letter stays dead, and why."""
    CHAIN_BEGUN = "CHAIN_BEGUN"
    """The audit database was begun anew: this names the last anchored head of the chain before."""


class Kind(StrEnum):
    """What stands behind a record: for the first three a stored object, so that it can be rebuilt."""

    ACCEPTED = "accepted"
    OUTCOME = "outcome"
    DEAD = "dead"
    NOTE = "note"


class ObjectRecord(Frozen):
    """One object that was read or written."""

    uri: str
    etag: str = ""
    bytes: int | None = None
    rows: int | None = None
    sha256: str | None = None


class ErrorRecord(Frozen):
    type: str
    message: str
    rule: str | None = None
    traceback: str | None = None


def _measured(metrics: Any) -> Any:
    """JSON has no NaN: what could not be measured comes back as null, and is left out."""
    return {k: v for k, v in metrics.items() if v is not None} if isinstance(metrics, Mapping) else metrics


class AuditRecord(Frozen):
    """What happened to one input at one stage. Immutable; `event_id` makes storing it idempotent."""

    schema_version: Literal[1] = 1
    event_id: UUID
    kind: Kind
    status: Status
    run_id: UUID
    parents: tuple[UUID, ...] = ()
    stage: str
    variant: str
    dataset: str
    stem: str | None = None
    inputs: tuple[ObjectRecord, ...] = ()
    outputs: tuple[ObjectRecord, ...] = ()
    rows_in: int = 0
    rows_out: int = 0
    rows_duplicate: int = 0
    rejected: Mapping[str, int] = Field(default_factory=dict)
    """Rejected rows by rule."""
    lines_skipped: Mapping[str, int] = Field(default_factory=dict)
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    metrics: Annotated[Mapping[str, float], BeforeValidator(_measured)] = Field(default_factory=dict)
    error: ErrorRecord | None = None
    message_id: str | None = None
    attempt: int = 1
    started: datetime
    finished: datetime
    host: str
    traceparent: str | None = None


def event_id(kind: Kind, stage: str, variant: str, subject: str, *more: object) -> UUID:
    """Id of a record. `subject` is the input (a uri, a run id, a plan's key).

    A NOTE is told apart by `more`: status, message id, attempt.
    """
    return uuid5(NAMESPACE, "\n".join([kind.value, stage, variant, subject, *map(str, more)]))


def fold_record(record: AuditRecord) -> dict[str, str]:
    """`record` as user metadata of the Parquet object that is its first output (left out: the object tells). ASCII."""
    document = record.model_dump(mode="json", exclude_defaults=True)
    document["outputs"] = document.get("outputs", [{}])[1:]
    document["sha256"] = record.outputs[0].sha256 if record.outputs else None
    packed = base64.b64encode(zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)).decode()
    return {META_RECORD: packed}


def fit_record(record: AuditRecord, room: int) -> AuditRecord:
    """`record`, as much of it as `fold_record` gets into `room` bytes of metadata; all of it, nearly always.

    First to go are metrics and parameters, then the names of the rarest rules: their rows are counted together
    (`other_rules`), so that the sums hold. A good object must not be rejected for what can be said of it.
    """
    if metadata_size(fold_record(record)) <= room:
        return record
    record = record.model_copy(update={"metrics": {}, "parameters": {"left_out": "no room in the object's metadata"}})
    by_count = sorted(record.rejected.items(), key=lambda item: (-item[1], item[0]))
    for named in range(len(by_count), -1, -1):
        rejected = dict(by_count[:named])
        if rest := sum(count for _, count in by_count[named:]):
            rejected[OTHER_RULES] = rejected.get(OTHER_RULES, 0) + rest
        fitting = record.model_copy(update={"rejected": rejected})
        if metadata_size(fold_record(fitting)) <= room:
            return fitting
    return fitting


def unfold_record(metadata: Mapping[str, str], *, uri: str, etag: str, size: int) -> AuditRecord | None:
    """The record that `fold_record` put into an object's metadata, or None where there is none of ours."""
    if not (packed := metadata.get(META_RECORD)):
        return None
    try:
        document = json.loads(zlib.decompress(base64.b64decode(packed)))
        first = {"uri": uri, "etag": etag, "bytes": size, "rows": document.get("rows_out", 0)}
        first["sha256"] = document.pop("sha256", None)
        document["outputs"] = [first, *document.get("outputs", [])]
        return AuditRecord.model_validate(document)
    except (ValueError, zlib.error, KeyError, TypeError, ValidationError):
        return None


def record_of_document(document: Mapping[str, Any], *, uri: str, etag: str, size: int) -> AuditRecord | None:
    """The record inside a JSON commit object (key `record`), or None where there is none of ours.

    The object could not know its own etag and size: they are filled in where the record names `uri`.
    """
    try:
        record = AuditRecord.model_validate(document["record"])
    except (ValidationError, KeyError, TypeError):
        return None
    outputs = tuple(
        o.model_copy(update={"etag": etag, "bytes": size}) if o.uri == uri and not o.etag else o for o in record.outputs
    )
    return record.model_copy(update={"outputs": outputs})


def metadata_size(metadata: Mapping[str, str]) -> int:
    """Bytes of user metadata as MinIO counts them: each name with its `x-amz-meta-`."""
    return sum(len("x-amz-meta-") + len(k) + len(v) for k, v in metadata.items())


def told_rows(metadata: Mapping[str, str]) -> int | None:
    """The rows that an object's metadata tells of; None where it tells none, or what no object can hold."""
    text = metadata.get(META_ROWS, "")
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def valid_traceparent(text: str | None) -> str | None:
    """`text` where it is a W3C trace context, else None: what a client wrote there must not travel on."""
    return text if text and _TRACEPARENT.fullmatch(text) else None


def utc_now() -> datetime:
    return datetime.now(UTC)
