"""What is known of a table's loads: `tables/<dataset>.json` in LEDGER, moved with `If-Match` only.

A load begins by opening: it takes the next number, and remembers the checkpoint that it goes on from. Whoever opened
last may close, which moves the checkpoint; a load that was opened before ends without: its rows stand in RAW with lower
versions and do no harm, and the next load finds its changes again. Nobody waits for anybody.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict

from acequia.errors import TransientFailure
from acequia.layers import NAMESPACE, Layer
from acequia.ports import ObjectInfo, ObjectStore
from acequia.runner import JSON

OPEN_MOST = 32
"""Loads that are remembered as open: older ones were left by runs that died."""
RACES = 100


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Identity(_Document):
    """Which table this is: another cluster, database or table of the same name is not it."""

    system: str | None
    database: int
    relation: int


class Checkpoint(_Document):
    """What a load's first snapshot saw. What it did not see has changed since."""

    load: int
    full: bool
    at: str
    """When that snapshot was taken, by the source's clock."""
    identity: Identity
    timeline: int | None = None
    below: int | None = None
    """All transactions with a lower number had ended. None: the source does not tell who wrote a row."""
    seen: tuple[int, ...] = ()
    """Those above it whose rows were seen."""
    base: str | None = None
    """The cursor's highest value, the snapshot's time or the beginning of the oldest open transaction, whichever is
    least: what is stamped later may not have been seen. None: the cursor is no time."""
    digest: str | None = None
    """Of all rows in their order, where the table was read in one piece."""
    compared_at: str | None = None
    """When all keys were last compared."""
    full_next: bool = False
    """So many rows had changed unseen that the next load is to be a full one."""


class KeyFile(_Document):
    """Keys of rows that were moved. `sure`: of a load that closed; of another they may have been."""

    key: str
    rows: int
    sure: bool = False


class Opening(_Document):
    """A load that was opened and has not ended."""

    load: int
    id: str
    """16 hex digits: the `id` of its objects' stems."""
    before: Checkpoint | None = None
    """Of the last closed load, when it opened."""
    began: Checkpoint | None = None
    """Of its own first snapshot, once something was put."""


class TableState(_Document):
    schema_version: int = 1
    dataset: str
    load: int = 0
    """Number of the load that was opened last."""
    open: Mapping[str, Opening] = {}
    """By run."""
    checkpoint: Checkpoint | None = None
    columns: Mapping[str, str] = {}
    """Columns beyond the canonical ones, with their types at the source."""
    keys: tuple[KeyFile, ...] = ()


def state_key(dataset: str) -> str:
    return f"tables/{dataset}.json"


def result_key(dataset: str, run_id: UUID) -> str:
    """What became of a table in a run, until the run's `done` says it."""
    return f"tables/{dataset}/runs/{run_id}.json"


def keys_key(dataset: str, load: int, part: int, digest: str) -> str:
    """Keys of the rows of a part; of all rows for part 0. `digest` of the content: no two are alike by name only."""
    return f"tables/{dataset}/keys/{load:06d}-{part:06d}-{digest[:12]}.parquet"


class States:
    """The states of all tables. Raises as the store does."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def read(self, dataset: str) -> TableState:
        return (await self._read(dataset))[0]

    async def open(self, dataset: str, run_id: UUID) -> tuple[TableState, Opening, bool]:
        """The load of this run: the one it has open, else a new one, and whether it is new."""
        new = False

        def opened(state: TableState) -> TableState:
            nonlocal new
            new = str(run_id) not in state.open
            if not new:
                return state
            number = state.load + 1
            opening = Opening(
                load=number, id=uuid5(NAMESPACE, f"load\n{run_id}\n{number}").hex[:16], before=state.checkpoint
            )
            kept = sorted(state.open.items(), key=lambda item: item[1].load)[-(OPEN_MOST - 1) :]
            return state.model_copy(update={"load": number, "open": dict([*kept, (str(run_id), opening)])})

        state = await self._move(dataset, opened)
        return state, state.open[str(run_id)], new

    async def begin(
        self, dataset: str, run_id: UUID, opening: Opening, began: Checkpoint, files: Sequence[KeyFile]
    ) -> bool:
        """Before parts are put: pin the load's first snapshot, and name the keys that they hold.

        False where the load is no longer as `opening` says: another delivery was faster.
        """
        faster = False

        def begun(state: TableState) -> TableState:
            nonlocal faster
            standing = state.open.get(str(run_id))
            faster = standing is None or standing.load != opening.load or standing.began != opening.began
            if faster:
                return state
            moved = opening.model_copy(update={"began": opening.began or began})
            known = {file.key for file in state.keys}
            return state.model_copy(
                update={
                    "open": {**state.open, str(run_id): moved},
                    "keys": (*state.keys, *(file for file in files if file.key not in known)),
                }
            )

        await self._move(dataset, begun)
        return not faster

    async def close(
        self,
        dataset: str,
        run_id: UUID,
        load: int,
        checkpoint: Checkpoint | None,
        *,
        columns: Mapping[str, str],
        sure: Sequence[KeyFile] = (),
        replaced: Sequence[str] = (),
    ) -> tuple[bool, TableState]:
        """End the load. `checkpoint`: where the next goes on, if nobody opened after it; None: where this one began.

        `sure`: keys that the load has moved; `replaced`: files that say nothing any more. Whether the checkpoint is
        now this load's. Harmless where it was done before.
        """
        closed = False

        def ended(state: TableState) -> TableState:
            nonlocal closed
            closed = state.checkpoint is not None and checkpoint is not None and state.checkpoint.load == load
            standing = state.open.get(str(run_id))
            if standing is None or standing.load != load:
                return state
            rest = {run: opening for run, opening in state.open.items() if run != str(run_id)}
            if checkpoint is None or state.load != load:
                return state.model_copy(update={"open": rest})
            closed = True
            own = {file.key for file in sure}
            kept = tuple(file for file in state.keys if file.key not in own and file.key not in set(replaced))
            moved = {"open": rest, "checkpoint": checkpoint, "columns": dict(columns), "keys": (*kept, *sure)}
            return state.model_copy(update=moved)

        state = await self._move(dataset, ended)
        return closed, state

    async def _read(self, dataset: str) -> tuple[TableState, ObjectInfo | None]:
        found = await self._store.read(Layer.LEDGER, state_key(dataset))
        if found is None:
            return TableState(dataset=dataset), None
        return TableState.model_validate(json.loads(found[0])), found[1]

    async def _move(self, dataset: str, step: Callable[[TableState], TableState]) -> TableState:
        """From the version that is read to what `step` makes of it; again where someone else was faster."""
        for _ in range(RACES):
            state, info = await self._read(dataset)
            if (moved := step(state)) is state:
                return state
            body = moved.model_dump_json(exclude_none=True).encode()
            key = state_key(dataset)
            stored = (
                await self._store.create(Layer.LEDGER, key, body, metadata={}, content_type=JSON)
                if info is None
                else await self._store.replace(Layer.LEDGER, key, body, etag=info.etag, metadata={}, content_type=JSON)
            )
            if stored is not None:
                return moved
        raise TransientFailure(f"the state of {dataset} was moved by others {RACES} times", dependency="minio")
