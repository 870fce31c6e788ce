"""What a stage is: a name, a version, what it reads and writes, and one pure function. No asyncio, no broker, no S3."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from acequia.layers import Layer, Stem, data_key, folder_key
from acequia.work import Outcome, Ref, Work, variant_of


class Process(Protocol):
    """`inputs` are local files, in the order of `work.inputs`; `out` is an empty folder to write into.

    Pure and synchronous; called in a worker thread. Raises RejectedWhole where the whole object is rejected.
    An `optional` input that does not exist has a path where no file is.
    """

    def __call__(self, work: Work, inputs: Sequence[Path], out: Path) -> Outcome: ...


def needs_nothing(work: Work, first: Path) -> Sequence[Ref]:
    """Most stages read only the object they woke for."""
    return ()


@dataclass(frozen=True, slots=True)
class Stage:
    """One object in, one artifact out (transformer, evaluator)."""

    name: str
    version: str
    reads: Layer
    writes: Layer
    process: Process
    settings: Mapping[str, object] = field(default_factory=dict)
    """Those settings that change the output: they are part of the variant."""
    commit_file: str | None = None
    """Name of the JSON commit object in a folder of its own ("evaluation.json"); None: a Parquet object."""
    needs: Callable[[Work, Path], Sequence[Ref]] = needs_nothing
    """Which further objects the work reads, told by the first input's content (a model card names its data)."""

    @property
    def variant(self) -> str:
        return variant_of(self.version, self.settings)

    def commit_key(self, stem: Stem, variant: str) -> str:
        return folder_key(stem, variant, self.commit_file) if self.commit_file else data_key(stem, variant)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A SILVER object as a planner sees it."""

    key: str
    etag: str
    stem: str
    variant: str
    bytes: int
    rows: int | None
    time_min: str | None
    time_max: str | None
    run_id: str | None
    load: str | None = None
    """Of a table: what `acequia-load` says (events.Load)."""


class Compose(Protocol):
    """What a plan says beyond its inputs: `inputs` are new, `window` lies in earlier partitions (newest first).

    Pure. Gives the plan's further fields, for instance which of the window to read again.
    """

    def __call__(self, inputs: Sequence[Candidate], window: Sequence[Candidate]) -> Mapping[str, Any]: ...


def reaches_back_for_nothing(inputs: Sequence[Candidate]) -> date | None:
    """What new objects need of earlier ones lies in the window, if anything does."""
    return None


@dataclass(frozen=True, slots=True)
class BatchStage:
    """Many objects in, one artifact out (trainer, lakehouse): a plan pins what one piece of work covers."""

    name: str
    version: str
    reads: Layer
    writes: Layer
    process: Process
    commit_file: str
    compose: Compose
    window_days: int = 0
    """How many days of earlier partitions `compose` is shown."""
    settings: Mapping[str, object] = field(default_factory=dict)
    gather_quiet: float = 0.2
    """Seconds without a new object after which a plan is made."""
    gather_most: float = 5.0
    """Seconds after the first object after which a plan is made in any case."""
    reach: Callable[[Sequence[Candidate]], date | None] = reaches_back_for_nothing
    """From which day on, beyond `window_days`, these inputs need what earlier plans cover."""
    most_rows: int | None = None
    """Rows of one plan's inputs, at most, but for one input alone; what is more becomes further plans."""
    supersedes: bool = False
    """Whether a newer variant of an object that a plan covers is work too."""
    fetch: bool = True
    """Whether `process` gets its inputs as local files. If not, its paths name none: it reads the store by itself."""

    @property
    def variant(self) -> str:
        return variant_of(self.version, self.settings)

    def commit_key(self, stem: Stem, variant: str) -> str:
        return folder_key(stem, variant, self.commit_file)
