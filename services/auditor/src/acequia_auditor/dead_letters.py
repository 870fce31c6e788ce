"""What died is made durable in the store, then in the table, then acknowledged: so people can list, show, replay it."""

import asyncio
import base64
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, ValidationError

from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.events import (
    META_DATASET,
    META_RUN_ID,
    AuditRecord,
    ErrorRecord,
    IngestionCommand,
    Kind,
    ObjectCreated,
    ObjectRecord,
    Status,
    event_id,
    parse_notification,
    utc_now,
)
from acequia.layers import (
    NAMESPACE,
    UNKNOWN_DATASET,
    Buckets,
    Layer,
    Name,
    Stem,
    dead_key,
    is_variant,
    landing_done_id,
    plan_key,
    run_id_of,
    stage_key,
)
from acequia.ports import Ack, Delivery, HandBack, Message, ObjectStore, Settlement
from acequia.runner import JSON, Meters, foreign_stem
from acequia.topology import READERS, dead_queue
from acequia_auditor.connect import Connection, query
from acequia_auditor.database import RETRY_FIRST, RETRY_MOST, Database
from acequia_auditor.write import clean, insert_records, store_records

log = logging.getLogger(__name__)

Publish = Callable[[AuditRecord], Awaitable[None]]
STAGES = (*(reader.stage for reader in READERS), "auditor")
"""Whose messages can die."""
TEXT_LIMIT = 100_000
"""Characters of a reason or traceback that are kept."""
SURROGATES = re.compile("[\ud800-\udfff]")


class State(StrEnum):
    """What became of a dead letter."""

    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Act(BaseModel):
    """What a person did with a dead letter."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    act: State
    reason: str = ""
    at: datetime
    by: str = ""


class DeadLetter(BaseModel):
    """`dead/<stage>/<name>.json` in LEDGER: all that is needed to understand, and to replay, what died."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    record: AuditRecord
    key: str
    stem: str
    reason: str
    traceback: str = ""
    uri: str | None = None
    type: str = ""
    message_id: str = ""
    payload: str
    """The message's body; base64 where it is not UTF-8."""
    payload_is_base64: bool = False
    headers: Mapping[str, str]
    attempt: int
    died_at: datetime
    state: State = State.OPEN
    replaying: bool = False
    """A replay has begun. Whether its message was sent is not known: `state` says what was before."""
    acts: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class _Subject:
    """What the dead message was about."""

    name: str
    """The stem, or an id where there is none."""
    variant: str
    subject: str
    run_id: UUID
    dataset: str
    stem: Stem | None = None
    inputs: tuple[ObjectRecord, ...] = ()
    parents: tuple[UUID, ...] = ()
    error: str = ""
    traceback: str = ""


class DeadLetterWriter:
    """The handler of each `acequia.<stage>.dead` queue. Whatever is away: the message waits in hand.

    `buckets` says whose notifications are ours; `publish`, if given, tells others of the DEAD record (confirmed)
    before the table is written.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        publish: Publish | None = None,
        *,
        buckets: Buckets | None = None,
        meters: Meters | None = None,
    ) -> None:
        self._meters = meters or Meters()
        for stage in STAGES:  # a first one is seen as a rise only where there was a nought before
            self._meters.dead.labels(stage)
        self._database = database
        self._store = store
        self._publish = publish
        self._buckets = buckets or Buckets()
        self._closed = asyncio.Event()

    async def handle(self, delivery: Delivery) -> Settlement:
        """Ack once it lies in LEDGER and in the table; HandBack on `close`. Nothing dies twice: there is no Dead."""
        seen_at = utc_now()
        pause, counted = RETRY_FIRST, False
        while not self._closed.is_set():
            try:
                if await self._stored_after_all(delivery):
                    return Ack()
                letter = await self._letter(delivery, seen_at)
                stored = await self._store_letter(letter)
                if not counted:
                    self._meters.dead.labels(stored.record.stage).inc()
                    counted = True
                if self._publish is not None:
                    await self._publish(stored.record)
                await store_letters(self._database, [stored])
            except RejectedInput as error:
                # it is safe in LEDGER; a table that cannot hold it must not keep the queue from draining
                log.error("a dead letter of %s is only in LEDGER: %s", delivery.queue, error)  # noqa: TRY400
                return Ack()
            except (TransientFailure, ConfigurationError) as error:
                log.warning("a dead letter of %s waits: %s", delivery.queue, error)
                try:
                    await asyncio.wait_for(self._closed.wait(), pause)
                except TimeoutError:
                    pause = min(pause * 2, RETRY_MOST)
            else:
                return Ack()
        return HandBack()

    async def close(self) -> None:
        """Stop: what waits for a server is handed back."""
        self._closed.set()

    async def _stored_after_all(self, delivery: Delivery) -> bool:
        """A sound audit record can die too, where PostgreSQL was away so long that the delivery limit was reached."""
        if delivery.queue != dead_queue("auditor"):
            return False
        try:
            await store_records(self._database, [AuditRecord.model_validate_json(delivery.message.body)])
        except (ValidationError, RejectedInput):
            return False
        return True

    async def _store_letter(self, letter: DeadLetter) -> DeadLetter:
        """Put it into LEDGER. An open letter that stands there already (the same message again) is the truth.

        What was replayed (or is being replayed) or discarded, and has died again since, is open again.
        """
        data = letter.model_dump_json(indent=1).encode()
        created = await self._store.create(Layer.LEDGER, letter.key, data, metadata={}, content_type=JSON)
        if created is not None:
            return letter
        found = await self._store.read(Layer.LEDGER, letter.key)
        if found is None:
            raise TransientFailure(f"{letter.key} was removed meanwhile", dependency="minio")
        try:
            standing = DeadLetter.model_validate_json(found[0])
        except ValidationError:
            log.warning("%s is no dead letter of ours; it stays as it is", letter.key)
            return letter
        untouched = standing.state is State.OPEN and not standing.replaying
        if untouched or standing.died_at >= letter.died_at:
            return standing
        etag = found[1].etag
        if await self._store.replace(Layer.LEDGER, letter.key, data, etag=etag, metadata={}, content_type=JSON):
            return letter
        raise TransientFailure(f"{letter.key} was changed meanwhile", dependency="minio")

    async def _variant(self, stage: str, headers: Mapping[str, str]) -> str:
        """The variant that a notification died under, if the message does not say: the stage's latest to appear."""
        if said := headers.get("acequia-variant"):
            return said if is_variant(said) else ""
        found = await self._store.read(Layer.LEDGER, stage_key(stage))
        try:
            variant = json.loads(found[0])["variants"][-1] if found else ""
        except (ValueError, KeyError, IndexError, TypeError):
            return ""
        return variant if isinstance(variant, str) and is_variant(variant) else ""

    async def _letter(self, delivery: Delivery, seen_at: datetime) -> DeadLetter:
        """Whatever the message is, there is a letter of it: what cannot be read, or written down, is named by an id."""
        message = _writable(delivery.message)
        stage = _stage(delivery.queue, message)
        about = await self._about(stage, message)
        try:
            letter = _write(stage, message, about, delivery.attempt, seen_at)
            letter.model_dump_json()
        except Exception:
            log.exception("a dead message of %s cannot be written down as what it is", stage)
            return _write(stage, message, _named(stage, message), delivery.attempt, seen_at)
        else:
            return letter

    async def _about(self, stage: str, message: Message) -> _Subject:
        try:
            match message.type:
                case "":
                    event = parse_notification(message.body, self._buckets)
                    if isinstance(event, ObjectCreated):
                        return await self._about_object(stage, event, message.headers)
                case "IngestionCommand":
                    command = IngestionCommand.model_validate_json(message.body)
                    run = command.run_id
                    return _Subject(str(run), "", str(run), run, command.dataset)
                case "AuditRecord":
                    record = AuditRecord.model_validate_json(message.body)
                    subject = str(record.event_id)
                    return _Subject(subject, "", subject, record.run_id, record.dataset, inputs=record.inputs)
                case "Plan":
                    return _of_plan(stage, json.loads(message.body))
        except (TransientFailure, ConfigurationError):
            raise
        except (RejectedInput, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.info("a dead message of %s cannot be read: %r", stage, error)
        except Exception:  # a fault of ours must not keep the queue from draining
            log.exception("a dead message of %s cannot be read", stage)
        return _named(stage, message)

    async def _about_object(self, stage: str, event: ObjectCreated, headers: Mapping[str, str]) -> _Subject:
        """Named as the stage would have named its outcome: a landing object by its `done`, any other by a stem."""
        name = Name.of_key(event.key) if event.layer is not Layer.LANDING else None
        stem = name.stem if name else None
        if stem is None and event.layer is not Layer.LANDING:
            info = await self._store.head(event.layer, event.key)
            stem = foreign_stem(info, event.bucket) if info else None
        done_id = landing_done_id(event.bucket, event.key, event.etag)
        return _Subject(
            name=str(stem or done_id),
            variant=await self._variant(stage, headers) if stem else "",
            subject=event.uri if stem else str(done_id),
            run_id=run_id_of(event.metadata.get(META_RUN_ID), event.bucket, event.key, event.etag),
            dataset=stem.dataset if stem else _text(event.metadata.get(META_DATASET) or UNKNOWN_DATASET),
            stem=stem,
            inputs=(ObjectRecord(uri=event.uri, etag=event.etag, bytes=event.size),),
        )


def _write(stage: str, message: Message, about: _Subject, attempt: int, seen_at: datetime) -> DeadLetter:
    headers = dict(message.headers)
    died_at = _time(headers.get("acequia-died-at"), seen_at)
    attempt = _number(headers.get("acequia-attempt"), attempt)
    reason = (about.error or headers.get("acequia-error") or "the broker gave it up (delivery limit)")[:TEXT_LIMIT]
    trace = (about.traceback or headers.get("acequia-traceback") or "")[:TEXT_LIMIT]
    try:
        payload = message.body.decode()
        is_base64 = "\0" in payload
    except UnicodeDecodeError:
        is_base64 = True
    if is_base64:
        payload = base64.b64encode(message.body).decode()
    record = AuditRecord(
        event_id=event_id(Kind.DEAD, stage, about.variant, about.subject),
        kind=Kind.DEAD,
        status=Status.DEAD,
        run_id=about.run_id,
        parents=about.parents,
        stage=stage,
        variant=about.variant,
        dataset=about.dataset,
        stem=str(about.stem) if about.stem else None,
        inputs=about.inputs,
        error=ErrorRecord(type=reason.partition(":")[0][:200], message=reason, traceback=trace or None),
        message_id=message.message_id or None,
        attempt=attempt,
        started=died_at,
        finished=died_at,
        host=socket.gethostname(),
        traceparent=headers.get("traceparent"),
    )
    return DeadLetter(
        record=record,
        key=dead_key(stage, about.name, about.variant or None),
        stem=about.name,
        reason=reason,
        traceback=trace,
        uri=about.inputs[0].uri if about.inputs else None,
        type=message.type,
        message_id=message.message_id,
        payload=payload,
        payload_is_base64=is_base64,
        headers=headers,
        attempt=attempt,
        died_at=died_at,
    )


def _named(stage: str, message: Message) -> _Subject:
    """What nothing else is known of."""
    named = uuid5(NAMESPACE, f"dead\n{stage}\n{message.message_id}\n{message.body.hex()}")
    return _Subject(str(named), "", str(named), named, UNKNOWN_DATASET)


def _of_plan(stage: str, plan: Mapping[str, Any]) -> _Subject:
    if (stem := Stem.parse(str(plan["stem"]))) is None:
        raise ValueError(f"not a plan's stem: {plan['stem']!r}")
    variant = str(plan.get("variant") or "")
    if variant and not is_variant(variant):
        raise ValueError(f"not a variant: {variant!r}")
    inputs = tuple(
        ObjectRecord(uri=i) if isinstance(i, str) else ObjectRecord.model_validate(i) for i in plan.get("inputs") or ()
    )
    return _Subject(
        name=str(stem),
        variant=variant,
        subject=plan_key(stage, str(plan["dataset"]), int(plan["number"])),
        run_id=UUID(str(plan["run_id"])),
        dataset=_text(str(plan["dataset"])),
        stem=stem,
        inputs=inputs,
        parents=tuple(UUID(str(p)) for p in plan.get("parents") or ()),
        error=_text(str(plan.get("error") or "")),
        traceback=_text(str(plan.get("traceback") or "")),
    )


def _stage(queue: str, message: Message) -> str:
    """The stage whose message died: the queue's, for a header can be missing or wrong."""
    by_queue = next((s for s in STAGES if dead_queue(s) == queue), None)
    return by_queue or message.headers.get("acequia-stage") or queue


def _text(text: str) -> str:
    """Half of a surrogate pair, which JSON may say, is in no encoding of text."""
    return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def _writable(message: Message) -> Message:
    return replace(
        message,
        type=_text(message.type),
        message_id=_text(message.message_id),
        headers={_text(name): _text(value) for name, value in message.headers.items()},
    )


def _time(text: str | None, otherwise: datetime) -> datetime:
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return otherwise
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 10 else otherwise


async def store_letters(database: Database, letters: Sequence[DeadLetter]) -> int:
    """Store the letters, their DEAD records and what was done with them, all or none; how many records were new."""
    async with database.transaction() as connection:
        stored = await insert_records(connection, [letter.record for letter in letters], database.earlier)
        await _insert(connection, letters)
        for letter in letters:
            await insert_acts(connection, letter.record.event_id, letter.died_at, letter.acts)
    return stored


async def insert_acts(connection: Connection, id: UUID, died_at: datetime, acts: Sequence[Act]) -> None:
    """What was done with the letter `id` after the death of `died_at`. An act that is known already stays."""
    rows = [(id, died_at, act.act.value, clean(act.reason), act.at, clean(act.by)) for act in acts]
    if rows:
        await connection.execute(query("insert_acts"), *([row[n] for row in rows] for n in range(6)))


async def _insert(connection: Connection, letters: Sequence[DeadLetter]) -> None:
    rows = [
        (
            letter.record.event_id,
            letter.record.run_id,
            letter.record.stage,
            letter.stem,
            letter.record.variant,
            letter.record.dataset,
            letter.reason,
            letter.traceback,
            letter.uri,
            letter.type,
            letter.message_id,
            letter.payload,
            letter.payload_is_base64,
            json.dumps(clean(dict(letter.headers))),
            letter.attempt,
            letter.died_at,
        )
        for letter in letters
    ]
    columns = [[clean(row[n]) for row in rows] for n in range(16)]
    await connection.execute(query("insert_dead_letters"), *columns)
