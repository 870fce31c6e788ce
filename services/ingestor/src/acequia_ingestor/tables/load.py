"""The tables of a command, one after the other: each opened, read, checked, put in parts, and closed.

What a crash leaves is gone on from: parts that stand are not read again, and what became of a table is kept until the
run's `done` says it.
"""

import asyncio
import base64
import json
import logging
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any
from uuid import UUID

import polars as pl
from pydantic import BaseModel, ConfigDict

from acequia.acceptance import COMMAND
from acequia.datasets import Dataset, OnFailure
from acequia.errors import InputGone, RejectedInput, TransientFailure
from acequia.events import (
    META_BLOCKED,
    META_DATASET,
    META_LOAD,
    META_ROWS,
    META_RUN_ID,
    META_STAGE_VERSION,
    META_TRACEPARENT,
    METADATA_LIMIT,
    IngestionCommand,
    Load,
    ObjectRecord,
    metadata_size,
)
from acequia.layers import Layer, Stem, data_key, done_key, manifest_key, rejected_rows_key
from acequia.ports import Message, ObjectInfo
from acequia.runner import JSON, PARQUET, Workshop, in_thread, info_record, sha256_of
from acequia.topology import COMMANDS
from acequia_ingestor.settings import PostgresSourceSettings
from acequia_ingestor.sources.postgres import PostgresSource
from acequia_ingestor.tables.checks import CheckResult, Counted, failed
from acequia_ingestor.tables.extract import Order, PartFile, Stored, Stretch, extract
from acequia_ingestor.tables.keys import Known
from acequia_ingestor.tables.state import Checkpoint, KeyFile, Opening, States, TableState, keys_key, result_key

log = logging.getLogger("acequia")

STAGE = "ingestor"
HELD_MOST = 1500.0
"""Seconds of one delivery in which the source has to have answered: the broker takes a message back after 1800."""
META_SO_FAR = "acequia-so-far"
"""On a part: where its load had come to with it, so that whoever goes on knows. Packed JSON."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)


class Closing(_Document):
    """What ends a load in the table's state."""

    load: int
    checkpoint: Checkpoint | None
    """None: the next load goes on from where this one began."""
    columns: Mapping[str, str] = {}
    sure: tuple[KeyFile, ...] = ()
    replaced: tuple[str, ...] = ()


class TableResult(_Document):
    """What became of one table in a run."""

    load: int | None = None
    full: bool = False
    counted: Counted = Counted()
    parts: int = 0
    checks: tuple[CheckResult, ...] = ()
    columns_added: tuple[str, ...] = ()
    columns_changed: Mapping[str, str] = {}
    blocked: tuple[str, ...] = ()
    """The checks for which its parts go no further than RAW."""
    broken_by: Mapping[str, int] = {}
    """Rows that break the contract, by rule; where a table was only checked, those that can't be read as well."""
    rejected: str | None = None
    """The rule by which nothing of it went to RAW."""
    reason: str | None = None
    outputs: tuple[ObjectRecord, ...] = ()
    closing: Closing | None = None

    @property
    def told(self) -> dict[str, Any]:
        """As the run's page shows it."""
        more: dict[str, Any] = {"reason": self.reason} if self.reason else {}
        more |= {"blocked": list(self.blocked)} if self.blocked else {}
        more |= {"broken_by": dict(self.broken_by)} if self.broken_by else {}
        more |= {"columns_changed": dict(self.columns_changed)} if self.columns_changed else {}
        return {
            "load": self.load,
            "kind": "full" if self.full else "changes",
            "rows": self.counted.rows,
            "deleted": self.counted.deleted,
            "parts": self.parts,
            "checks": [check.model_dump(mode="json") for check in self.checks],
            "columns_added": list(self.columns_added),
            "rejected": self.rejected,
            **more,
        }


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of all tables of a run."""

    tables: Mapping[str, TableResult]

    @property
    def rejected(self) -> bool:
        """Whether no table went well."""
        return all(result.rejected is not None for result in self.tables.values())

    @property
    def reason(self) -> str:
        return "; ".join(f"{name}: {result.reason}" for name, result in self.tables.items() if result.rejected)

    @property
    def rule(self) -> str:
        rules = {result.rejected for result in self.tables.values() if result.rejected}
        return str(rules.pop()) if len(rules) == 1 else "tables_rejected"

    @property
    def outputs(self) -> tuple[ObjectRecord, ...]:
        return tuple(output for result in self.tables.values() for output in result.outputs)

    @property
    def rows_out(self) -> int:
        return sum(result.counted.rows for result in self.tables.values() if result.parts)

    @property
    def rows_by_rule(self) -> dict[str, int]:
        rules: Counter[str] = Counter()
        for result in self.tables.values():
            if result.load is not None:  # what was only checked was not taken in
                rules.update(result.counted.rejected)
        return dict(sorted(rules.items()))


@dataclass(frozen=True, slots=True)
class Job:
    """A command that asks for tables."""

    command: IngestionCommand
    asked: PostgresSource
    names: tuple[str, ...]
    at: datetime
    """Of the stems."""

    @property
    def run_id(self) -> UUID:
        return self.command.run_id


class RunEnded(Exception):
    """Another delivery of the run has ended it: its `done` stands."""


class TableLoads:
    """Carries out commands that ask for tables. Raises as the store and the bus do; TransientFailure (`source`) where
    the database can't be reached."""

    def __init__(self, workshop: Workshop, settings: PostgresSourceSettings, variant: str) -> None:
        self._workshop = workshop
        self._settings = settings
        self._variant = variant
        self._states = States(workshop.store)
        self._in_hand: set[UUID] = set()
        """Runs that a delivery of this process is at."""

    async def carry_out(self, job: Job, folder: Path) -> Ended | None:
        """Load each table. None: this delivery has no more to do with it. Its time is over, and the command was sent
        again, to be gone on with; or another one of this process, whose message is not acknowledged, is at it.

        RunEnded where another delivery of the run was faster.
        """
        if job.run_id in self._in_hand:
            return None
        self._in_hand.add(job.run_id)
        try:
            return await self._carry_out(job, folder)
        finally:
            self._in_hand.discard(job.run_id)

    async def _carry_out(self, job: Job, folder: Path) -> Ended | None:
        began = time.monotonic()
        deadline, ends = began + self._settings.load_seconds, began + HELD_MOST
        tables: dict[str, TableResult] = {}
        worked = False
        for name in job.names:
            result = await self._stands(name, job.run_id)
            if result is None:
                if worked and time.monotonic() > deadline:
                    await self._go_on_later(job)
                    return None
                worked = True
                result = await self._load(job, self._workshop.registry[name], folder / name, deadline, ends)
                if result is None:
                    await self._go_on_later(job)
                    return None
            await self._close(name, job.run_id, result)
            tables[name] = result
        return Ended(tables)

    async def forget(self, job: Job) -> None:
        """The run's `done` stands: what was kept of its tables until then goes."""
        for name in job.names:
            await self._workshop.store.remove(Layer.LEDGER, result_key(name, job.run_id))

    async def _go_on_later(self, job: Job) -> None:
        body = job.command.model_dump_json().encode()
        message = Message(body, type=COMMAND, message_id=str(job.run_id))
        self._in_hand.discard(job.run_id)  # before anyone can have that message
        await self._workshop.bus.publish(COMMANDS, "ingest", message)
        self._workshop.at(f"{STAGE}.after_again")

    async def _ended_meanwhile(self, run_id: UUID, name: str, opening: Opening) -> TableResult | None:
        """Another delivery of the run may have closed the table's load just before this one opened another.

        RunEnded where it has even ended the run.
        """
        result = await self._stands(name, run_id)
        if result is None and not await self._workshop.store.head(Layer.LEDGER, done_key(run_id)):
            return None
        await self._states.close(name, run_id, opening.load, None, columns={})
        if result is None:
            raise RunEnded
        return result

    # what stands

    async def _stands(self, name: str, run_id: UUID) -> TableResult | None:
        found = await self._workshop.store.read(Layer.LEDGER, result_key(name, run_id))
        return TableResult.model_validate_json(found[0]) if found else None

    async def _keep(self, name: str, run_id: UUID, result: TableResult) -> TableResult:
        """Store what became of a table; the loser of a race gets the winner's."""
        created = await self._workshop.store.create(
            Layer.LEDGER,
            result_key(name, run_id),
            result.model_dump_json(exclude_none=True).encode(),
            metadata={META_RUN_ID: str(run_id)},
            content_type=JSON,
        )
        if created is None and (standing := await self._stands(name, run_id)) is not None:
            result = standing
        self._workshop.at(f"{STAGE}.after_table")
        return result

    async def _close(self, name: str, run_id: UUID, result: TableResult) -> None:
        if (closing := result.closing) is None:
            return
        closed, state = await self._states.close(
            name,
            run_id,
            closing.load,
            closing.checkpoint,
            columns=closing.columns,
            sure=closing.sure,
            replaced=closing.replaced,
        )
        self._workshop.at(f"{STAGE}.after_close")
        if closed:
            still = {file.key for file in state.keys}
            for key in closing.replaced:
                if key not in still:
                    await self._workshop.store.remove(Layer.LEDGER, key)
        elif closing.checkpoint is not None:
            log.warning(
                "%s: another load was opened before load %d ended: the next one looks for its changes again. "
                "Where loads follow each other faster than they end, ask for them less often",
                name,
                closing.load,
            )

    async def _stored(self, stem: Stem) -> list[ObjectInfo]:
        """The parts of the load that stand."""
        found: list[ObjectInfo] = []
        while True:
            key = data_key(_part(stem, len(found) + 1))
            if (info := await self._workshop.store.head(Layer.RAW, key)) is None:
                return found
            found.append(info)

    # one table

    async def _load(self, job: Job, dataset: Dataset, folder: Path, deadline: float, ends: float) -> TableResult | None:
        """What became of it; None where the time was over before its end."""
        attempt = 0
        while True:
            place = folder / str(attempt := attempt + 1)
            state, opening = (TableState(dataset=dataset.name), Opening(load=1, id="0" * 16))
            if not job.asked.only_validate:
                state, opening, new = await self._states.open(dataset.name, job.run_id)
                self._workshop.at(f"{STAGE}.after_open")
                if new and (ended := await self._ended_meanwhile(job.run_id, dataset.name, opening)) is not None:
                    return ended
            stem = Stem(dataset.name, job.at, opening.id)
            stored = await self._stored(stem) if opening.began is not None else []
            if stored and (blocked := stored[-1].metadata.get(META_BLOCKED)):
                result = _blocked_before(opening.load, stored, tuple(blocked.split(",")))
                return await self._keep(dataset.name, job.run_id, result)
            try:
                stretch = await self._extract(job, dataset, state, opening, stored, place, deadline, ends)
                self._workshop.at(f"{STAGE}.after_process")
                if job.asked.only_validate:
                    return await self._keep(dataset.name, job.run_id, _validated(stretch))
                put = await _Putting(self, job, dataset, state, opening, stem, stored, stretch).run()
            except RejectedInput as rejected:
                result = await self._reject(job, dataset, opening, stem, rejected, stored)
                return await self._keep(dataset.name, job.run_id, result)
            if put is None:
                log.info("%s: another delivery of the same run was faster; looking again", dataset.name)
                continue
            if put.result is None:
                return None
            return await self._keep(dataset.name, job.run_id, put.result)

    async def _extract(
        self,
        job: Job,
        dataset: Dataset,
        state: TableState,
        opening: Opening,
        stored: Sequence[ObjectInfo],
        folder: Path,
        deadline: float,
        ends: float,
    ) -> Stretch:
        dsn = self._settings.dsn_of(job.asked.connection)
        if dsn is None:
            named = f"_{job.asked.connection.upper()}" if job.asked.connection else ""
            raise RejectedInput("no_source", f"no database is set to read from: ACEQUIA_SOURCE_POSTGRES{named}_DSN")
        loop = asyncio.get_running_loop()

        def known() -> Sequence[Known]:
            asked = self._known(state, opening, folder / "known")
            return asyncio.run_coroutine_threadsafe(asked, loop).result()

        order = Order(
            dataset=dataset,
            dsn=dsn,
            statement_timeout=self._settings.statement_timeout,
            load=opening.load,
            before=opening.before,
            began=opening.began,
            full=dataset.name in job.asked.full_refresh,
            columns=state.columns,
            known=known,
            stored=_so_far(stored[-1], len(stored)) if stored else None,
            rows_per_part=job.command.rows_per_part,
            deadline=deadline,
            ends=ends,
            only_validate=job.asked.only_validate,
        )
        stop = Event()
        try:
            return await in_thread(extract, order, self._workshop.registry, folder, stop)
        finally:
            stop.set()  # where this task was cancelled, the thread ends too

    async def _known(self, state: TableState, opening: Opening, folder: Path) -> list[Known]:
        """The files of keys that were moved, here."""
        folder.mkdir(parents=True)
        known: list[Known] = []
        for number, file in enumerate(state.keys):
            path = folder / f"{number}.parquet"
            try:
                await self._workshop.store.get(Layer.LEDGER, file.key, path)
            except InputGone as gone:
                raise TransientFailure(f"{gone}: another load has just compared keys", dependency="minio") from gone
            known.append(Known(path, file.sure or _is_of(file, state.dataset, opening.load), file.rows))
        return known

    async def _reject(
        self,
        job: Job,
        dataset: Dataset,
        opening: Opening,
        stem: Stem,
        rejected: RejectedInput,
        stored: Sequence[ObjectInfo],
    ) -> TableResult:
        """The table can't be loaded: a manifest for people. What its load put before stands, and does no harm."""
        if job.asked.only_validate:
            return TableResult(rejected=rejected.rule, reason=rejected.reason)
        manifest = await self.put_manifest(job, dataset, stem, rejected.rule, rejected.reason, rejected.details)
        so_far = _so_far(stored[-1], len(stored)) if stored else None
        return TableResult(
            load=opening.load,
            full=bool(opening.began and opening.began.full),
            counted=so_far.counted if so_far else Counted(),
            parts=len(stored),
            rejected=rejected.rule,
            reason=rejected.reason,
            outputs=(*(_record_of(info) for info in stored), manifest),
            closing=Closing(load=opening.load, checkpoint=None),
        )

    async def put_manifest(
        self, job: Job, dataset: Dataset, stem: Stem, rule: str, reason: str, details: Mapping[str, object]
    ) -> ObjectRecord:
        manifest = {
            "schema_version": 1,
            "stage": STAGE,
            "dataset": dataset.name,
            "stem": str(stem),
            "input": str(job.run_id),
            "run_id": str(job.run_id),
            "rule": rule,
            "reason": reason,
            "details": details,
        }
        info = await self._workshop.store.put(
            Layer.QUARANTINE,
            manifest_key(STAGE, stem),
            json.dumps(manifest, indent=1, default=str).encode(),
            metadata={META_RUN_ID: str(job.run_id)},
            content_type=JSON,
        )
        return info_record(info)

    @property
    def workshop(self) -> Workshop:
        return self._workshop

    @property
    def states(self) -> States:
        return self._states

    @property
    def variant(self) -> str:
        return self._variant


@dataclass(frozen=True, slots=True)
class _Put:
    result: TableResult | None
    """None: the load has not ended."""


class _Putting:
    """What a stretch of a load has read, into the store."""

    def __init__(
        self,
        loads: TableLoads,
        job: Job,
        dataset: Dataset,
        state: TableState,
        opening: Opening,
        stem: Stem,
        stored: Sequence[ObjectInfo],
        stretch: Stretch,
    ) -> None:
        self._loads = loads
        self._store = loads.workshop.store
        self._job = job
        self._dataset = dataset
        self._state = state
        self._opening = opening
        self._stem = stem
        self._stored = list(stored)
        self._stretch = stretch
        self._outputs = [_record_of(info) for info in stored]
        self._rejected: list[ObjectRecord] = []
        own = [check.name for check in dataset.checks if check.rows is not None]
        quarantined = [name for name in failed(stretch.checks, OnFailure.QUARANTINE) if name not in own]
        self._quarantine = stretch.quarantine or next(iter(quarantined), None)
        self._blocked = tuple(failed(stretch.checks, OnFailure.BLOCK))

    async def run(self) -> _Put | None:
        """None: another delivery of the run was faster, and nothing that is read here is to be used."""
        stretch, ends = self._stretch, bool(self._blocked or self._quarantine)
        if stretch.unchanged and not ends:
            return _Put(self._result(stretch.checkpoint, parts=0, counted=Counted()))
        if self._quarantine is not None:
            return _Put(await self._set_apart(self._quarantine))
        files: list[KeyFile] = []
        if stretch.parts:
            files = [file for part in stretch.parts if (file := await self._put_keys(part)) is not None]
            run_id, checkpoint = self._job.run_id, stretch.checkpoint
            if not await self._loads.states.begin(self._dataset.name, run_id, self._opening, checkpoint, files):
                return None
            self._loads.workshop.at(f"{STAGE}.after_begin")
        if stretch.rejected is not None and (ends or not stretch.more):
            number = len(self._stored) + len(stretch.parts) + 1
            self._rejected.append(await self._put_rejected(stretch.rejected, number))
        for part in stretch.parts:
            last = part is stretch.parts[-1] and (ends or not stretch.more)
            if not await self._put_part(part, last=last):
                return None
        if stretch.more and not ends:
            if not stretch.parts:
                raise RejectedInput("no_rows", "nothing that was read in the time of one delivery can be used")
            return _Put(None)
        moves = None if self._blocked else stretch.checkpoint
        own = [*(f for f in self._state.keys if _is_of(f, self._dataset.name, self._opening.load)), *files]
        sure, replaced = await self._keys_after(own)
        parts = len(self._stored) + len(stretch.parts)
        return _Put(self._result(moves, parts=parts, counted=stretch.counted, sure=sure, replaced=replaced))

    async def _keys_after(self, own: Sequence[KeyFile]) -> tuple[list[KeyFile], list[str]]:
        """Files of keys that the state names from now on as surely moved, and those that it need not name any more."""
        sure = [file.model_copy(update={"sure": True}) for file in own]
        names = {file.key for file in own}
        before = [file.key for file in self._state.keys if file.key not in names]
        if self._stretch.baseline is not None:
            path, rows = self._stretch.baseline
            key = keys_key(self._dataset.name, self._opening.load, 0, await asyncio.to_thread(sha256_of, path))
            await self._store.put(Layer.LEDGER, key, path, metadata={}, content_type=PARQUET)
            return [KeyFile(key=key, rows=rows, sure=True)], [*before, *names]
        if self._stretch.checkpoint.full:
            return sure, before
        return sure, []

    def _result(
        self,
        checkpoint: Checkpoint | None,
        *,
        parts: int,
        counted: Counted,
        sure: Sequence[KeyFile] = (),
        replaced: Sequence[str] = (),
        rejected: str | None = None,
        reason: str | None = None,
        outputs: Sequence[ObjectRecord] = (),
    ) -> TableResult:
        stretch, load = self._stretch, self._opening.load
        return TableResult(
            load=load,
            full=stretch.checkpoint.full,
            counted=counted,
            parts=parts,
            checks=tuple(stretch.checks),
            columns_added=stretch.layout.added,
            columns_changed={name: change.value for name, change in stretch.layout.changed.items()},
            blocked=self._blocked if rejected is None else (),
            broken_by=dict(sorted(stretch.broken_by.items())),
            rejected=rejected,
            reason=reason,
            outputs=(*self._outputs, *self._rejected, *outputs),
            closing=Closing(
                load=load,
                checkpoint=checkpoint,
                columns=dict(stretch.columns),
                sure=tuple(sure),
                replaced=tuple(replaced),
            ),
        )

    async def _put_keys(self, part: PartFile) -> KeyFile | None:
        if part.keys is None:
            return None
        digest = await asyncio.to_thread(sha256_of, part.keys)
        key = keys_key(self._dataset.name, self._opening.load, part.number, digest)
        await self._store.put(Layer.LEDGER, key, part.keys, metadata={}, content_type=PARQUET)
        return KeyFile(key=key, rows=part.keys_rows)

    async def _put_part(self, part: PartFile, *, last: bool) -> bool:
        """False where such a part stands already, which another delivery has put."""
        load = Load(
            number=self._opening.load,
            full=self._stretch.checkpoint.full,
            part=part.number,
            parts=part.number if last else None,
        )
        counted = self._stretch.counted if last else part.counted
        metadata = {
            META_RUN_ID: str(self._job.run_id),
            META_DATASET: self._dataset.name,
            META_STAGE_VERSION: self._loads.variant,
            META_ROWS: str(part.rows),
            META_LOAD: str(load),
            META_SO_FAR: _packed({"position": part.position, "counted": counted.model_dump(mode="json")}),
        }
        if self._blocked:
            metadata[META_BLOCKED] = ",".join(self._blocked)
        if self._job.command.traceparent:
            metadata[META_TRACEPARENT] = self._job.command.traceparent
        if metadata_size(metadata) > METADATA_LIMIT:
            raise RejectedInput(
                "key_too_long", f"the key of a row of {self._dataset.name} is too long to be remembered"
            )
        if part.rejected is not None:
            self._rejected.append(await self._put_rejected(part.rejected, part.number))
        digest = await asyncio.to_thread(sha256_of, part.path)
        info = await self._store.create(
            Layer.RAW, data_key(_part(self._stem, part.number)), part.path, metadata=metadata, content_type=PARQUET
        )
        self._loads.workshop.at(f"{STAGE}.after_part")
        if info is None:
            return False
        self._outputs.append(info_record(info, rows=part.rows, sha256=digest))
        return True

    async def _put_rejected(self, path: Path, number: int) -> ObjectRecord:
        digest = await asyncio.to_thread(sha256_of, path)
        info = await self._store.put(
            Layer.QUARANTINE,
            rejected_rows_key(STAGE, _part(self._stem, number)),
            path,
            metadata={},
            content_type=PARQUET,
        )
        return info_record(info, sha256=digest)

    async def _set_apart(self, rule: str) -> TableResult:
        """All rows of the stretch to quarantine, with why. The load ends: its rows come again where keys are compared,
        those of a full load with the next one."""
        stretch = self._stretch
        rows = 0
        for part in stretch.parts:
            rows += part.rows
            await in_thread(_with_rule, part.path, rule)
            self._rejected.append(await self._put_rejected(part.path, part.number))
        refused = [part.rejected for part in stretch.parts if part.rejected is not None]
        after = len(self._stored) + len(stretch.parts)
        for number, path in enumerate([*refused, *([stretch.rejected] if stretch.rejected else [])], start=after + 1):
            self._rejected.append(await self._put_rejected(path, number))
        reason = f"the check {rule} failed"
        if rule == "no_rows":
            reason = _none_of(stretch)
        elif rule == stretch.quarantine:
            changed = ", ".join(f"{name} ({change.value})" for name, change in stretch.layout.changed.items())
            reason = f"columns at the source changed: {changed}"
        told = {"rows": rows, "rejected": dict(stretch.counted.rejected)}
        manifest = await self._loads.put_manifest(self._job, self._dataset, self._stem, rule, reason, told)
        by_rule = Counter(stretch.counted.rejected)
        by_rule[rule] += rows
        counted = stretch.counted.model_copy(
            update={"rows": stretch.counted.rows - rows, "rejected": {k: v for k, v in by_rule.items() if v}}
        )
        whole = not self._stored and not stretch.more and not stretch.checkpoint.full
        return self._result(
            stretch.checkpoint if whole else None,
            parts=len(self._stored),
            counted=counted,
            rejected=rule,
            reason=reason,
            outputs=[manifest],
        )


def _blocked_before(load: int, stored: Sequence[ObjectInfo], blocked: tuple[str, ...]) -> TableResult:
    """Of a load that was cut off while its blocked parts were put: it ends with those that stand."""
    counted = _so_far(stored[-1], len(stored)).counted
    return TableResult(
        load=load,
        full=_load_of(stored[-1]).full,
        counted=counted,
        parts=len(stored),
        checks=tuple(CheckResult(name=name, on_failure=OnFailure.BLOCK, passed=False) for name in blocked),
        blocked=blocked,
        outputs=tuple(_record_of(info) for info in stored),
        closing=Closing(load=load, checkpoint=None),
    )


def _validated(stretch: Stretch) -> TableResult:
    unusable = bool(stretch.counted.rejected) and not stretch.counted.rows
    return TableResult(
        full=True,
        counted=stretch.counted,
        checks=tuple(stretch.checks),
        columns_changed={name: change.value for name, change in stretch.layout.changed.items()},
        broken_by=dict(sorted((Counter(stretch.counted.rejected) + Counter(stretch.broken_by)).items())),
        rejected="no_rows" if unusable else None,
        reason=_none_of(stretch) if unusable else None,
    )


def _none_of(stretch: Stretch) -> str:
    return f"none of the {stretch.counted.read} rows that were read can be used"


def _load_of(info: ObjectInfo) -> Load:
    load = Load.parse(info.metadata[META_LOAD])
    assert load is not None
    return load


def _part(stem: Stem, number: int) -> Stem:
    return Stem(stem.dataset, stem.at, stem.id, number)


def _is_of(file: KeyFile, dataset: str, load: int) -> bool:
    """Whether it was written by this load."""
    return file.key.startswith(keys_key(dataset, load, 0, "").partition("-")[0] + "-")


def _packed(document: Mapping[str, Any]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)).decode()


def _so_far(info: ObjectInfo, number: int) -> Stored:
    """What the last part that stands tells of its load."""
    document = json.loads(zlib.decompress(base64.b64decode(info.metadata[META_SO_FAR])))
    ended = _load_of(info).parts is not None
    return Stored(number, Counted.model_validate(document["counted"]), document["position"], ended)


def _record_of(info: ObjectInfo) -> ObjectRecord:
    return info_record(info, rows=int(info.metadata.get(META_ROWS, "0")))


def _with_rule(path: Path, rule: str) -> None:
    """Each row of the file with the rule by which it was set apart."""
    marked = path.with_suffix(".marked")
    pl.scan_parquet(path).with_columns(rule=pl.lit(rule)).sink_parquet(marked, compression="zstd")
    marked.replace(path)
