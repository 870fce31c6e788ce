"""A work item (stage, variant, input stem), what processing it gives, and the record that its commit carries."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from acequia.errors import RejectedInput
from acequia.layers import Layer, Stem


def variant_of(version: str, settings: Mapping[str, object]) -> str:
    """`v<version>-<6 hex digits>` over those settings that change a stage's output."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=str)
    return f"v{version}-{hashlib.sha256(canonical.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, slots=True)
class Ref:
    """One object of a layer. `etag` pins its content where it is known; `optional`: absence is an answer too."""

    layer: Layer
    key: str
    etag: str | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Input:
    """An object that work reads, as it was at its event."""

    layer: Layer
    key: str
    etag: str
    uri: str
    bytes: int = 0
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """One work item, as a stage's `process` sees it."""

    stage: str
    variant: str
    stem: Stem
    dataset: str
    run_id: UUID
    inputs: tuple[Input, ...]
    plan: Mapping[str, Any] = field(default_factory=dict)
    """For many-to-one work: the plan's document (inputs, window, hold-out); else empty."""
    written: tuple[str, ...] = ()
    """For many-to-one work: the variants of the stage that writes what is read, oldest first."""


@dataclass(frozen=True, slots=True)
class Beside:
    """A file stored before the commit object: rejected rows, a model, a report. `key` is whole."""

    layer: Layer
    key: str
    path: Path
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer to move before the commit (the champion): from the version that was read to `document`.

    `etag` None: it must not exist yet. Where someone else moved it first, the work is decided anew.
    """

    layer: Layer
    key: str
    document: Mapping[str, Any]
    etag: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `process` gives back. Exactly one of `output` (a Parquet file) and `document` (JSON) is the commit.

    `rows_in = rows_out + rows_duplicate + sum(rejected.values())` for row-wise stages; the runner checks it.
    """

    output: Path | None = None
    document: Mapping[str, Any] | None = None
    beside: Sequence[Beside] = ()
    pointer: Pointer | None = None
    rows_in: int = 0
    rows_out: int = 0
    rows_duplicate: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    time_range: tuple[str, str] | None = None
    """ISO 8601 UTC of the first and the last event in `output`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


class RejectedWhole(RejectedInput):
    """Raised by `process` where the whole object is rejected: an outcome with its reason and its row counts."""

    def __init__(
        self,
        rule: str,
        reason: str,
        *,
        rows_in: int = 0,
        rejected: Mapping[str, int] | None = None,
        beside: Sequence[Beside] = (),
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(rule, reason)
        self.rows_in = rows_in
        self.rejected = dict(rejected or {})
        self.beside = tuple(beside)
        self.parameters = dict(parameters or {})
