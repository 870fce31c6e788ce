"""What people do with dead letters: look at them, send them again, or say that they stay dead.

A replay says in LEDGER that it has begun, sends the letter's message, tells the audit trail, and removes the letter, in
this order; a plan's letter stays, and is marked `replayed` once its inputs were sent. Nothing calls a letter replayed
before it was sent. Wherever it is cut off, doing it again completes it: at worst it is sent twice, and done once.
"""

import asyncio
import base64
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acequia.errors import RejectedInput, TransientFailure
from acequia.events import AuditRecord, Kind, ObjectRecord, Status, event_id, utc_now
from acequia.layers import Buckets, Layer, dead_key
from acequia.ports import Bus, Message, ObjectInfo, ObjectStore
from acequia.runner import JSON, event_again
from acequia.topology import AUDIT_QUEUE, replay_queue
from acequia_auditor.database import Database
from acequia_auditor.dead_letters import Act, DeadLetter, State, insert_acts
from acequia_auditor.problems import ProblemRoute, answers
from acequia_auditor.write import insert_records

OF_ITS_DEATH = frozenset(f"acequia-{name}" for name in ("error", "traceback", "stage", "attempt", "died-at", "variant"))
"""Headers of a dead message that its replay does not carry."""
PLAN_INPUTS_AT_ONCE = 16
RACES = 5
_REASON = "the sensor was replaced; its last file is not needed"


class Summary(BaseModel):
    """A dead letter in a list."""

    id: UUID
    run_id: UUID
    stage: str
    stem: str
    variant: str
    dataset: str
    reason: Annotated[str, Field(description="At most 2,000 characters of it")]
    uri: str | None
    type: str
    attempt: int
    died_at: datetime
    age: Annotated[float, Field(description="Seconds since it died")]
    state: State


class SummaryPage(BaseModel):
    dead_letters: list[Summary]
    next: Annotated[str | None, Field(description="Give this as `before` to get the next page")] = None


class Detail(Summary):
    """Everything that is known of a dead letter."""

    reason: str
    traceback: str
    message_id: str
    payload: Annotated[str, Field(description="The message's body; base64 where it is no text")]
    payload_is_base64: bool
    headers: dict[str, str]
    acts: Annotated[list[Act], Field(description="What was done with it, also after earlier deaths, in order")]


class Why(BaseModel):
    """Who does it, and why."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(max_length=2000, examples=[_REASON])] = ""
    by: Annotated[str, Field(max_length=200)] = ""


class WhyDiscarded(Why):
    reason: Annotated[str, Field(min_length=1, max_length=2000, examples=[_REASON])]


class Done(BaseModel):
    id: UUID
    state: State
    sent: Annotated[int, Field(description="Messages that were sent now")] = 0
    gone: Annotated[list[str], Field(description="Inputs of a dead plan that are not in the store any more")] = []


@dataclass(frozen=True, slots=True)
class _Sent:
    messages: int
    gone: tuple[str, ...] = ()


class Desk:
    """Where dead letters are listed, replayed and discarded."""

    def __init__(self, database: Database, store: ObjectStore, bus: Bus, buckets: Buckets) -> None:
        self._database = database
        self._store = store
        self._bus = bus
        self._buckets = buckets

    async def page(
        self,
        *,
        stage: str | None = None,
        dataset: str | None = None,
        state: State | None = None,
        older_than: timedelta | None = None,
        newer_than: timedelta | None = None,
        before: tuple[datetime, UUID] | None = None,
        limit: int = 50,
    ) -> SummaryPage:
        """The newest first."""
        now = utc_now()
        died_before = now - older_than if older_than is not None else None
        died_after = now - newer_than if newer_than is not None else None
        rows = await self._database.fetch(
            "dead_letters", stage, dataset, state, died_before, died_after, *(before or (None, None)), limit
        )
        found = [Summary(**row, age=_age(row, now)) for row in rows]
        following = f"{found[-1].died_at.isoformat()}_{found[-1].id}" if len(found) == limit else None
        return SummaryPage(dead_letters=found, next=following)

    async def show(self, id: UUID) -> Detail:
        """Raises HTTPException (404) where there is no such letter."""
        row = await self._row(id)
        acts = await self._database.fetch("dead_letter_acts", id)
        fields = {**row, "headers": json.loads(row["headers"])}
        return Detail(**fields, age=_age(row, utc_now()), acts=[Act(**act) for act in acts])

    async def replay(self, id: UUID, why: Why) -> Done:
        """Send its message again, on the low-priority queue of its stage. What was replayed already stays so.

        Raises RejectedInput where it is a plan that cannot be read, TransientFailure where it has to be tried again.
        """
        row = await self._row(id)
        sent = _Sent(0)
        is_plan = row["type"] == "Plan"  # that stays, so that nobody takes it for an open plan
        if row["state"] != State.REPLAYED:
            messages = await self._messages(row)
            letter = await self._begin_replay(row)
            if letter is None or letter.state is not State.REPLAYED:
                sent = await self._send(row, messages)
            act = _act(State.REPLAYED, why)
            if is_plan:
                act = await self._mark(row, act)
            await self._tell(row, act, sent)
        if not is_plan:
            await self._remove(row)
        return Done(id=id, state=State.REPLAYED, sent=sent.messages, gone=list(sent.gone))

    async def discard(self, id: UUID, why: WhyDiscarded) -> Done:
        """It stays dead, and is not counted as open any more. Raises HTTPException (409) where it was replayed."""
        row = await self._row(id)
        if row["state"] == State.OPEN:
            act = await self._mark(row, _act(State.DISCARDED, why))
            await self._tell(row, act, _Sent(0))
            if act.act is State.REPLAYED:
                row = await self._row(id)
        if row["state"] == State.REPLAYED:
            raise HTTPException(409, f"{id} was replayed: it is not dead any more")
        return Done(id=id, state=State.DISCARDED)

    async def _row(self, id: UUID) -> asyncpg.Record:
        rows = await self._database.fetch("dead_letter", id)
        if not rows:
            raise HTTPException(404, f"no dead letter {id} is known here")
        return rows[0]

    async def _begin_replay(self, row: asyncpg.Record) -> DeadLetter | None:
        """Say in LEDGER that it is being replayed, so that what dies of it again is no copy of this death.

        The letter as it stands then: one that was replayed already stays so. None where it was removed by hand.
        """

        def begin(letter: DeadLetter) -> DeadLetter | None:
            if letter.died_at != row["died_at"]:
                raise _died_again(letter)
            begun = letter.replaying or letter.state is State.REPLAYED
            return None if begun else letter.model_copy(update={"replaying": True})

        return await self._change(row, begin)

    async def _mark(self, row: asyncpg.Record, act: Act) -> Act:
        """Say in LEDGER what was done with it; what was said there before, by an act that was cut off, stands.

        Where the letter was removed by hand, or what was replayed has died again, the table alone tells of it.
        """

        def mark(letter: DeadLetter) -> DeadLetter | None:
            if letter.died_at != row["died_at"] and act.act is State.DISCARDED:
                raise _died_again(letter)
            if letter.died_at != row["died_at"] or letter.state in (act.act, State.REPLAYED):
                return None
            return letter.model_copy(update={"state": act.act, "replaying": False, "acts": (*letter.acts, act)})

        letter = await self._change(row, mark)
        return letter.acts[-1] if letter and letter.died_at == row["died_at"] and letter.acts else act

    async def _change(
        self, row: asyncpg.Record, change: Callable[[DeadLetter], DeadLetter | None]
    ) -> DeadLetter | None:
        """The letter in LEDGER after `change` (None: it stays as it is); None where there is none."""
        for _ in range(RACES):
            found = await self._in_ledger(row)
            if found is None:
                return None
            letter, info = found
            changed = change(letter)
            if changed is None:
                return letter
            body = changed.model_dump_json(indent=1).encode()
            if await self._store.replace(info.layer, info.key, body, etag=info.etag, metadata={}, content_type=JSON):
                return changed
        raise TransientFailure(f"{_key(row)} is changed by others all the time", dependency="minio")

    async def _messages(self, row: asyncpg.Record) -> Sequence[Message | ObjectRecord]:
        """What has to be sent: its message, or, for a plan, an event for each of its inputs."""
        payload: str = row["payload"]
        body = base64.b64decode(payload) if row["payload_is_base64"] else payload.encode()
        if row["type"] == "Plan":
            return _inputs(body)
        headers = {k: v for k, v in json.loads(row["headers"]).items() if k not in OF_ITS_DEATH}
        return [Message(body, type=row["type"], message_id=row["message_id"], headers=headers)]

    async def _send(self, row: asyncpg.Record, messages: Sequence[Message | ObjectRecord]) -> _Sent:
        queue = AUDIT_QUEUE if row["stage"] == "auditor" else replay_queue(row["stage"])
        slots = asyncio.Semaphore(PLAN_INPUTS_AT_ONCE)

        async def one(item: Message | ObjectRecord) -> str | None:
            async with slots:
                message = item if isinstance(item, Message) else await self._event(item.uri, row["died_at"])
                if message is None:
                    assert isinstance(item, ObjectRecord)
                    return item.uri
                await self._bus.publish("", queue, message)
                return None

        gone = tuple(uri for uri in await asyncio.gather(*(one(m) for m in messages)) if uri is not None)
        return _Sent(len(messages) - len(gone), gone)

    async def _event(self, uri: str, died_at: datetime) -> Message | None:
        """The object's event, as the store would tell it now; None where it is gone.

        It asks for a plan made after the death: however often it is sent, that is one.
        """
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        layer = self._buckets.layer(bucket)
        return await event_again(self._store, self._buckets, layer, key, stale_since=died_at) if layer else None

    async def _tell(self, row: asyncpg.Record, act: Act, sent: _Sent) -> None:
        """The act, in its table and in the audit trail."""
        status = Status.REPLAYED if act.act is State.REPLAYED else Status.DISCARDED
        parameters: dict[str, Any] = {"dead_letter": str(row["id"]), "stage": row["stage"]}
        parameters |= {"reason": act.reason, "by": act.by}
        if sent.gone:
            parameters["gone"] = list(sent.gone)
        record = AuditRecord(
            event_id=event_id(Kind.NOTE, "auditor", "", str(row["id"]), status, row["died_at"].isoformat()),
            kind=Kind.NOTE,
            status=status,
            run_id=row["run_id"],
            stage="auditor",
            variant="",
            dataset=row["dataset"],
            inputs=(ObjectRecord(uri=row["uri"]),) if row["uri"] else (),
            parameters=parameters,
            message_id=row["message_id"] or None,
            started=act.at,
            finished=act.at,
            host=socket.gethostname(),
        )
        async with self._database.transaction() as connection:
            await insert_records(connection, [record], self._database.earlier)
            await insert_acts(connection, row["id"], row["died_at"], [act])

    async def _remove(self, row: asyncpg.Record) -> None:
        """What was replayed is not dead; but what has died again since is."""
        found = await self._in_ledger(row)
        if found is not None and found[0].died_at == row["died_at"]:
            await self._store.remove(Layer.LEDGER, _key(row))

    async def _in_ledger(self, row: asyncpg.Record) -> tuple[DeadLetter, ObjectInfo] | None:
        """The letter as LEDGER holds it; None where it is not there."""
        found = await self._store.read(Layer.LEDGER, _key(row))
        if found is None:
            return None
        try:
            return DeadLetter.model_validate_json(found[0]), found[1]
        except ValidationError as error:
            raise RejectedInput("no_dead_letter", f"{_key(row)} is no dead letter of ours: remove it") from error


def _act(state: State, why: Why) -> Act:
    return Act(act=state, reason=why.reason, at=utc_now(), by=why.by)


def _died_again(letter: DeadLetter) -> TransientFailure:
    return TransientFailure(f"{letter.key} has died again: try again", dependency="postgresql")


def _key(row: asyncpg.Record) -> str:
    return dead_key(row["stage"], row["stem"], row["variant"] or None)


def _age(row: asyncpg.Record, now: datetime) -> float:
    age: timedelta = now - row["died_at"]
    return max(0.0, age.total_seconds())


def _inputs(body: bytes) -> list[ObjectRecord]:
    try:
        inputs = json.loads(body)["inputs"]
        return [ObjectRecord(uri=i) if isinstance(i, str) else ObjectRecord.model_validate(i) for i in inputs]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RejectedInput(
            "unreadable_plan", "this dead plan cannot be read, and so not be replayed: discard it"
        ) from error


def _cursor(text: str) -> tuple[datetime, UUID]:
    """Where a page begins: what `next` said, or a time."""
    at, _, id = text.partition("_")
    try:
        when = datetime.fromisoformat(at)
        if when.tzinfo is None:
            raise ValueError("a time zone is missing")
        return when, UUID(id) if id else UUID(int=0)
    except ValueError as error:
        raise HTTPException(422, f"before: neither what `next` said nor a time with its zone: {error}") from error


def dead_letter_router(desk: Desk) -> APIRouter:
    """`/dead-letters`, `/dead-letters/{id}`, and what can be done with one. Errors are problem+json (RFC 9457)."""
    router = APIRouter(route_class=ProblemRoute, tags=["dead letters"])
    Seconds = Annotated[float | None, Query(ge=0, le=1e9, description="Seconds")]  # noqa: N806
    Id = Annotated[UUID, Path(description="As the list tells it")]  # noqa: N806

    @router.get("/dead-letters", summary="What died, the newest first", responses=answers(422, 503))
    async def list_dead_letters(
        stage: Annotated[str | None, Query(examples=["transformer"])] = None,
        dataset: Annotated[str | None, Query(examples=["network_events"])] = None,
        state: Annotated[str, Query(pattern="^(open|discarded|replayed|all)$")] = "open",
        older_than: Seconds = None,
        newer_than: Seconds = None,
        limit: Annotated[int, Query(ge=1, le=500, description="How many at most")] = 50,
        before: Annotated[str | None, Query(description="What `next` of the page before said, or a time")] = None,
    ) -> SummaryPage:
        return await desk.page(
            stage=stage,
            dataset=dataset,
            state=None if state == "all" else State(state),
            older_than=timedelta(seconds=older_than) if older_than is not None else None,
            newer_than=timedelta(seconds=newer_than) if newer_than is not None else None,
            before=_cursor(before) if before is not None else None,
            limit=limit,
        )

    @router.get("/dead-letters/{id}", summary="Everything about one", responses=answers(404, 422, 503))
    async def show_dead_letter(id: Id) -> Detail:
        return await desk.show(id)

    @router.post("/dead-letters/{id}/replay", summary="Send it again", responses=answers(404, 422, 503))
    async def replay_dead_letter(id: Id, why: Why | None = None) -> Done:
        """On the low-priority queue of its stage. Again and again is as once."""
        return await desk.replay(id, why or Why())

    @router.post("/dead-letters/{id}/discard", summary="It stays dead", responses=answers(404, 409, 422, 503))
    async def discard_dead_letter(id: Id, why: WhyDiscarded) -> Done:
        """It is not open any more, and not sent again. Again and again is as once."""
        return await desk.discard(id, why)

    return router
