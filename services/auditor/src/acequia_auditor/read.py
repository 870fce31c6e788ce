"""The read side over HTTP: runs, artifacts, lineage."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import APIRouter, HTTPException, Path, Query
from pydantic import AwareDatetime, BaseModel, Field

from acequia.datasets import Registry
from acequia.events import AuditRecord, ErrorRecord, Kind, ObjectRecord, Status
from acequia.layers import Layer, is_variant
from acequia.topology import READERS
from acequia_auditor.database import Database
from acequia_auditor.problems import ProblemRoute, answers
from acequia_auditor.write import layer_of

EVENTS_MOST = 2000
"""Events on a run's page."""
OBJECTS_MOST = 100
"""Inputs, and outputs, that are listed of one event."""
ARTIFACTS_MOST = 5000
DEPTH_MOST = 20
NODES_MOST = 2000
EDGES_MOST = 10_000
SCANNED_MOST = 2000
"""Runs looked at for one page, where only those in one state are asked for."""

_RUN = "0b5e6c1e-3d7a-5c1f-9a53-2f1b7c0d4e11"
_STEM = "network_events_20251220_121209_9f2c4e1a7b3d5e60"
_RAW = f"s3://cybersec-ml-raw/network_events/date=2025-12-20/{_STEM}_0001.parquet"
_MODEL = "network_events_20251220_121211_plan_000001.v1-3fa9c1"


class State(StrEnum):
    """How far a run is."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    DONE = "done"
    REJECTED = "rejected"
    FAILED = "failed"
    SAME_CONTENT = "same_content"
    IMPORTED = "imported"
    """Taken over from a predecessor, and not replayed yet."""


class Run(BaseModel):
    """One ingestion and what became of it. `rows_in = rows_silver + rows_duplicate + rows_quarantined` once done."""

    run_id: UUID
    dataset: str
    source: Annotated[str, Field(description="The source file's name, or the kind of source")]
    accepted_at: datetime
    finished_at: datetime | None = None
    state: State
    rows_in: int | None = None
    rows_raw: int | None = None
    rows_silver: int | None = None
    rows_duplicate: int | None = None
    rows_quarantined: int | None = None
    same_as: Annotated[UUID | None, Field(description="The run that brought this content first")] = None


class RunPage(BaseModel):
    runs: list[Run]
    next: Annotated[datetime | None, Field(description="Give this as `before` to get the next page")] = None

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "runs": [
                        {
                            "run_id": _RUN,
                            "dataset": "network_events",
                            "source": "synthetic",
                            "accepted_at": "2025-12-20T12:12:09Z",
                            "finished_at": "2025-12-20T12:12:13Z",
                            "state": "done",
                            "rows_in": 10,
                            "rows_raw": 10,
                            "rows_silver": 10,
                            "rows_duplicate": 0,
                            "rows_quarantined": 0,
                            "same_as": None,
                        }
                    ],
                    "next": None,
                }
            ]
        }
    }


class Event(BaseModel):
    """One audit record. At most 100 inputs and outputs are listed; the counts are whole."""

    event_id: UUID
    kind: Kind
    status: Status
    run_id: UUID
    parents: tuple[UUID, ...]
    stage: str
    variant: str
    stem: str | None
    started: datetime
    finished: datetime
    stored_at: datetime
    rows_in: int
    rows_out: int
    rows_duplicate: int
    rejected: Mapping[str, int]
    lines_skipped: Mapping[str, int]
    inputs: tuple[ObjectRecord, ...]
    inputs_count: int
    outputs: tuple[ObjectRecord, ...]
    outputs_count: int
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    error: ErrorRecord | None
    attempt: int
    host: str


class RunDetail(Run):
    """Everything that happened to one run, with the trainings and evaluations that covered its objects."""

    finished: bool
    raw_objects: int = 0
    silver_objects: int = 0
    pending: Annotated[int, Field(description="Objects that a reader has still to bring to an end, as known now")] = 0
    quarantined_by_rule: dict[str, int] = {}
    artifacts: Annotated[dict[str, list[str]], Field(description="URIs by layer")] = {}
    model: Annotated[str | None, Field(description="Id of the model that was trained on it first")] = None
    metrics: dict[str, float | None] = {}
    error: ErrorRecord | None = None
    stages: Annotated[dict[str, list[Event]], Field(description="What happened, by stage, in order")] = {}
    truncated: Annotated[bool, Field(description="Whether there are more events than are listed")] = False

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "run_id": _RUN,
                    "dataset": "network_events",
                    "source": "synthetic",
                    "accepted_at": "2025-12-20T12:12:09Z",
                    "finished_at": "2025-12-20T12:12:13Z",
                    "state": "done",
                    "finished": True,
                    "rows_in": 10,
                    "rows_raw": 10,
                    "rows_silver": 9,
                    "rows_duplicate": 0,
                    "rows_quarantined": 1,
                    "quarantined_by_rule": {"bytes_not_negative": 1},
                    "artifacts": {"raw": [_RAW]},
                    "model": _MODEL,
                    "metrics": {"roc_auc": 0.97},
                    "stages": {},
                }
            ]
        }
    }


class Artifact(BaseModel):
    uri: Annotated[str, Field(examples=[_RAW])]
    etag: str
    layer: str | None
    dataset: str
    run_id: UUID
    stage: str
    stem: str | None
    variant: str
    bytes: int | None
    rows: int | None
    sha256: str | None
    created: datetime


class ArtifactList(BaseModel):
    artifacts: list[Artifact]


class Node(BaseModel):
    """An object of the lineage. Where nothing of ours wrote it (a file that was dropped) the rest is null."""

    uri: Annotated[str, Field(examples=[_RAW])]
    etag: str
    layer: str | None
    depth: Annotated[int, Field(description="Steps from where the trace began; negative: towards the sources")]
    dataset: str | None = None
    run_id: UUID | None = None
    stage: str | None = None
    stem: str | None = None
    variant: str | None = None
    bytes: int | None = None
    rows: int | None = None
    sha256: str | None = None
    created: datetime | None = None
    parameters: dict[str, Any] | None = None
    metrics: dict[str, float | None] | None = None


class Edge(BaseModel):
    input: str
    output: str
    stage: str
    variant: str
    run_id: UUID
    event_id: UUID


class Lineage(BaseModel):
    """The objects before and after a node, and which was made from which."""

    node: str
    nodes: list[Node]
    edges: list[Edge]
    truncated: bool = False


class Reader:
    """Answers questions about the audit trail."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self._database = database
        applies = [
            (dataset.name, reader.layer.value, reader.stage)
            for dataset in registry.values()
            for reader in READERS
            if reader.layer is not Layer.LANDING and reader.stage in dataset.readers
        ]
        self._readers = [[row[n] for row in applies] for n in range(3)]

    async def runs(
        self, *, limit: int, dataset: str | None = None, state: State | None = None, before: datetime | None = None
    ) -> RunPage:
        """The newest runs first. Where a state is asked for, at most 2,000 runs are looked through for a page."""
        found: list[Run] = []
        scanned = 0
        while True:
            page = await self._database.fetch("runs_page", dataset, before, limit)
            states = await self._states([row["run_id"] for row in page])
            for row in page:
                run = _run(row, states[row["run_id"]], states)
                before = run.accepted_at
                scanned += 1
                if state is None or run.state is state:
                    found.append(run)
                if len(found) == limit:
                    return RunPage(runs=found, next=before)
            if len(page) < limit:
                return RunPage(runs=found)
            if scanned >= SCANNED_MOST:
                return RunPage(runs=found, next=before)

    async def run(self, run_id: UUID) -> RunDetail | None:
        """Everything about one run, or None where nothing is known of it."""
        heads = await self._database.fetch("run_head", run_id)
        if not heads:
            return None
        states = await self._states([run_id])
        own = states[run_id]
        run = _run(heads[0], own, states)
        told = states.get(run.same_as, own) if run.state is State.SAME_CONTENT and run.same_as else own
        event_ids = sorted({*(own["event_ids"] or ()), *(told["event_ids"] or ())})
        events = await self._database.fetch("run_events", run_id, event_ids, EVENTS_MOST + 1)
        stages: dict[str, list[Event]] = {}
        for row in events[:EVENTS_MOST]:
            event = _event(row)
            stages.setdefault(event.stage, []).append(event)
        artifacts: dict[str, list[str]] = {}
        for row in await self._database.fetch("event_artifacts", told["event_ids"] or [], ARTIFACTS_MOST):
            artifacts.setdefault(row["layer"], []).append(row["uri"])
        models = told["models"] or []
        return RunDetail(
            **run.model_dump(),
            finished=run.state not in (State.ACCEPTED, State.RUNNING),
            raw_objects=told["raw_objects"],
            silver_objects=told["silver_objects"],
            pending=told["pending"],
            quarantined_by_rule=_json(told["quarantined_by_rule"]) or {},
            artifacts=artifacts,
            model=model_id(models[-1]) if models else None,
            metrics=_json(told["metrics"]) or {},
            error=_first_error(own, stages),
            stages=stages,
            truncated=len(events) > EVENTS_MOST,
        )

    async def _states(self, run_ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
        """How far these runs are, and those whose content they repeat."""
        rows = await self._database.fetch("run_states", list(run_ids), *self._readers)
        states = {row["run_id"]: row for row in rows}
        firsts = {first for row in rows if (first := _uuid(row["same_as"])) is not None} - states.keys()
        if firsts:
            more = await self._database.fetch("run_states", sorted(firsts), *self._readers)
            states |= {row["run_id"]: row for row in more}
        return states

    async def artifacts(
        self, *, layer: Layer | None, dataset: str | None, run_id: UUID | None, limit: int
    ) -> list[Artifact]:
        """The newest first."""
        rows = await self._database.fetch("artifacts", layer.value if layer else None, dataset, run_id, limit)
        return [Artifact(**row) for row in rows]

    async def lineage(self, node: str) -> Lineage | None:
        """What lies before and after a uri, a run or a model; None where nothing is known of it."""
        stem, _, variant = node.partition(".")
        model = (stem, variant) if is_variant(variant) else (None, None)
        starts = await self._database.fetch("lineage_starts", node, _uuid(node), *model)
        if not starts:
            return None
        uris, etags = [row["uri"] for row in starts], [row["etag"] for row in starts]
        depths: dict[tuple[str, str], int] = {}
        truncated = False
        for name, sign in (("lineage_up", -1), ("lineage_down", 1)):
            rows = await self._database.fetch(name, uris, etags, DEPTH_MOST, NODES_MOST)
            truncated |= len(rows) == NODES_MOST or any(row["depth"] == DEPTH_MOST for row in rows)
            for row in rows:
                depths.setdefault((row["uri"], row["etag"]), sign * row["depth"])
        found = await self._database.fetch("lineage_nodes", [k[0] for k in depths], [k[1] for k in depths])
        nodes = [_node(row, depths[row["uri"], row["etag"]]) for row in found]
        edges = await self._database.fetch("lineage_edges", sorted({k[0] for k in depths}), EDGES_MOST)
        return Lineage(
            node=node,
            nodes=sorted(nodes, key=lambda n: (n.depth, n.uri, n.etag)),
            edges=[
                Edge(
                    input=row["input_uri"],
                    output=row["output_uri"],
                    stage=row["stage"],
                    variant=row["variant"],
                    run_id=row["run_id"],
                    event_id=row["event_id"],
                )
                for row in edges
            ],
            truncated=truncated or len(edges) == EDGES_MOST,
        )


def model_id(uri: str) -> str:
    """A model's id: the folder that its card lies in, `<stem>.<variant>`."""
    return uri.rpartition("/")[0].rpartition("/")[2]


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def _json(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


def _state(row: asyncpg.Record) -> State:
    statuses = set(row["ingest_statuses"] or ())
    alone = not row["ingestions"]
    if alone and not row["plans"]:
        return State.RUNNING if row["events"] else State.ACCEPTED
    if Status.IMPORTED in statuses and row["events"] == row["ingestions"]:
        return State.IMPORTED
    if not alone and not statuses & {Status.SUCCESS, Status.IMPORTED}:
        ended = {Status.SAME_CONTENT: State.SAME_CONTENT, Status.REJECTED: State.REJECTED}
        return next((state for status, state in ended.items() if status in statuses), State.FAILED)
    if row["pending"]:
        return State.RUNNING
    if row["failed"]:
        return State.FAILED
    nothing_survived = not alone and row["raw_objects"] and not row["silver_objects"]
    no_model = row["trainings"] and not row["models"]
    return State.REJECTED if nothing_survived or no_model else State.DONE


def _run(head: asyncpg.Record, own: asyncpg.Record, states: Mapping[UUID, asyncpg.Record]) -> Run:
    state, same_as = _state(own), _uuid(own["same_as"])
    told = states.get(same_as, own) if state is State.SAME_CONTENT and same_as else own
    counted = bool(told["ingestions"])
    return Run(
        run_id=head["run_id"],
        dataset=head["dataset"],
        source=head["source"],
        accepted_at=head["accepted_at"],
        finished_at=own["finished_at"] if state not in (State.ACCEPTED, State.RUNNING) else None,
        state=state,
        rows_in=told["rows_in"],
        rows_raw=told["rows_raw"],
        rows_silver=(told["rows_silver"] or 0) if counted else None,
        rows_duplicate=(told["rows_duplicate"] or 0) if counted else None,
        rows_quarantined=(told["rows_quarantined"] or 0) if counted else None,
        same_as=same_as,
    )


def _event(row: asyncpg.Record) -> Event:
    record = AuditRecord.model_validate_json(row["record"])
    said = record.model_dump(exclude={"inputs", "outputs"})
    return Event(
        **{name: said[name] for name in Event.model_fields if name in said},
        stored_at=row["stored_at"],
        inputs=record.inputs[:OBJECTS_MOST],
        inputs_count=len(record.inputs),
        outputs=record.outputs[:OBJECTS_MOST],
        outputs_count=len(record.outputs),
    )


def _first_error(own: asyncpg.Record, stages: Mapping[str, Sequence[Event]]) -> ErrorRecord | None:
    """Why the run ended otherwise than done: the first rejection or death that is told of."""
    if own["error"] is not None:
        return ErrorRecord.model_validate(_json(own["error"]))
    ended = (e for events in stages.values() for e in events if e.kind in (Kind.OUTCOME, Kind.DEAD))
    return next((e.error for e in ended if e.error is not None), None)


def _node(row: asyncpg.Record, depth: int) -> Node:
    fields = {**row, "parameters": _json(row["parameters"]), "metrics": _json(row["metrics"])}
    return Node(**fields, layer=layer_of(row["uri"]), depth=depth)


def read_router(database: Database, registry: Registry) -> APIRouter:
    """`/runs`, `/runs/{run_id}`, `/artifacts`, `/lineage`. Errors are problem+json (RFC 9457)."""
    router = APIRouter(route_class=ProblemRoute, tags=["audit trail"])
    reader = Reader(database, registry)
    Limit = Annotated[int, Query(ge=1, le=500, description="How many at most")]  # noqa: N806

    @router.get("/runs", summary="The newest ingestions", responses=answers(422, 503))
    async def list_runs(
        limit: Annotated[int, Query(ge=1, le=200, description="How many at most")] = 20,
        dataset: Annotated[str | None, Query(examples=["network_events"])] = None,
        status: Annotated[State | None, Query(description="Only runs in this state")] = None,
        before: Annotated[AwareDatetime | None, Query(description="Only runs accepted before this time")] = None,
    ) -> RunPage:
        return await reader.runs(limit=limit, dataset=dataset, state=status, before=before)

    @router.get("/runs/{run_id}", summary="Everything about one run", responses=answers(404, 422, 503))
    async def show_run(run_id: Annotated[UUID, Path(examples=[_RUN])]) -> RunDetail:
        if (run := await reader.run(run_id)) is None:
            raise HTTPException(404, f"no run {run_id} is known here")
        return run

    @router.get("/artifacts", summary="The newest artifacts", responses=answers(422, 503))
    async def list_artifacts(
        layer: Layer | None = None,
        dataset: Annotated[str | None, Query(examples=["network_events"])] = None,
        run_id: UUID | None = None,
        limit: Limit = 50,
    ) -> ArtifactList:
        return ArtifactList(artifacts=await reader.artifacts(layer=layer, dataset=dataset, run_id=run_id, limit=limit))

    @router.get("/lineage", summary="What came from what, both ways", responses=answers(404, 422, 503))
    async def show_lineage(
        node: Annotated[str, Query(description="A uri, a run's id or a model's id", examples=[_RAW, _RUN, _MODEL])],
    ) -> Lineage:
        if (lineage := await reader.lineage(node)) is None:
            raise HTTPException(404, f"nothing is known of {node}: give an object's uri, a run's id or a model's id")
        return lineage

    return router
