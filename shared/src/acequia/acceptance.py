"""Takes a command on: stored, told and sent before anyone is answered, once per run, whoever asks.

The ingestor's API does it for people, the reconciler for schedules.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from acequia.errors import TransientFailure
from acequia.events import META_RUN_ID, AuditRecord, IngestionCommand, Kind, ObjectRecord, Status, event_id
from acequia.layers import Layer, command_key, done_key
from acequia.ports import Message, ObjectStore
from acequia.runner import JSON, Workshop
from acequia.topology import COMMANDS

log = logging.getLogger("acequia")

COMMAND = "IngestionCommand"
"""`type` of the message that a command is."""
SEVERAL = "_tables"
"""Stands where a dataset's name would, for a run that asks for several."""
_STAGE = "ingestor"
"""Who carries commands out: acceptances are told in its name."""


def fingerprint(asked: Mapping[str, Any]) -> str:
    """Hex sha256 of what was asked for: a dataset and a source, as JSON knows them."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def accepted_record(
    *,
    run_id: UUID,
    dataset: str,
    at: datetime,
    host: str,
    parameters: Mapping[str, Any],
    inputs: Sequence[ObjectRecord] = (),
    traceparent: str | None = None,
) -> AuditRecord:
    """The record that a run was taken on. The same run gives the same event id, whoever says it."""
    return AuditRecord(
        event_id=event_id(Kind.ACCEPTED, _STAGE, "", str(run_id)),
        kind=Kind.ACCEPTED,
        status=Status.ACCEPTED,
        run_id=run_id,
        stage=_STAGE,
        variant="",
        dataset=dataset,
        inputs=tuple(inputs),
        parameters=dict(parameters),
        started=at,
        finished=at,
        host=host,
        traceparent=traceparent,
    )


def accepted_command(command: IngestionCommand, host: str) -> AuditRecord:
    asked = command.model_dump(mode="json", include={"source", "schedule"}, exclude_none=True)
    return accepted_record(
        run_id=command.run_id,
        dataset=command.dataset,
        at=command.accepted_at,
        host=host,
        parameters=asked,
        traceparent=command.traceparent,
    )


async def carried_out(store: ObjectStore, run_id: UUID) -> IngestionCommand | None:
    """The command of this run, where it ended already: its `done` repeats it."""
    found = await store.read(Layer.LEDGER, done_key(run_id))
    return IngestionCommand.model_validate(json.loads(found[0])["command"]) if found else None


async def take_on(
    workshop: Workshop,
    command: IngestionCommand,
    *,
    same: Callable[[IngestionCommand], None] = lambda standing: None,
    withdraw: bool = False,
) -> IngestionCommand:
    """Store and publish `command`, once per run; the command that stands under its run's id, which may be another.

    Who finds one stored publishes it too, for whoever stored it may have died before that. `same` is told of a standing
    command first: what it raises ends it here. `withdraw`: nobody else knows the run's id, so a command that the bus
    does not take is removed again. TransientFailure as store and bus raise it: trying again does no harm.
    """
    store, key = workshop.store, command_key(command.run_id)
    body = command.model_dump_json().encode()
    metadata = {META_RUN_ID: str(command.run_id)}
    if await store.create(Layer.LEDGER, key, body, metadata=metadata, content_type=JSON) is None:
        found = await store.read(Layer.LEDGER, key)
        if found is None:  # it was carried out meanwhile
            if (done := await carried_out(store, command.run_id)) is not None:
                same(done)
                return done
            raise TransientFailure(f"the command of {command.run_id} was removed while it was read", dependency="minio")
        same(command := IngestionCommand.model_validate_json(found[0]))
    workshop.at("acceptance.after_store")
    try:
        message = Message(command.model_dump_json().encode(), type=COMMAND, message_id=str(command.run_id))
        await workshop.bus.publish(COMMANDS, "ingest", message)
    except TransientFailure:
        if withdraw:
            await _withdraw(store, command.run_id)
        raise
    workshop.at("acceptance.after_publish")
    await workshop.publish(accepted_command(command, workshop.host))
    return command


async def _withdraw(store: ObjectStore, run_id: UUID) -> None:
    """As far as that goes: a command that stays is carried out, for nothing stored is forgotten."""
    try:
        await store.remove(Layer.LEDGER, command_key(run_id))
    except TransientFailure as failure:
        log.warning("a refused command stays and will be carried out: %s", failure)
