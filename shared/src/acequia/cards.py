"""The card of a model (`model.json`): what the trainer writes and the evaluator, and whoever loads a model, reads."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from acequia.errors import RejectedInput

Scope = Literal["holdout", "in_sample"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataRef(_Frozen):
    """A SILVER object as it was read. `rows`: how many of its rows are meant."""

    uri: str
    key: str
    etag: str
    rows: Annotated[int, Field(ge=0)]


class HoldOut(_Frozen):
    """What the model is judged by. `holdout`: the rows with event time >= `cut`, which training never saw.

    `in_sample`: there was too little to hold out, so the rows of training are all there is.
    """

    scope: Scope
    fraction: float
    cut: str | None
    """ISO 8601 UTC, microseconds; None in sample."""
    rows: Annotated[int, Field(ge=0)]
    inputs: tuple[DataRef, ...]
    """The objects that hold such rows."""


class Skipped(_Frozen):
    """An object of the plan that could not be trained on, and why."""

    uri: str
    reason: str


class PlanRef(_Frozen):
    number: int
    key: str
    created_at: str


class Artifact(_Frozen):
    """The file that the model lies in, in MODELS."""

    key: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: int


class ModelCard(_Frozen):
    schema_version: Literal[1] = 1
    model: str
    """Id: `<stem>.<variant>`, which is the card's folder."""
    dataset: str
    run_id: UUID
    parents: tuple[UUID, ...]
    """The runs that the training data came with."""
    plan: PlanRef
    inputs: tuple[DataRef, ...]
    """What the plan covers: new data."""
    window: tuple[DataRef, ...]
    """Earlier data, read again."""
    skipped: tuple[Skipped, ...] = ()
    holdout: HoldOut
    event_time: str
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    """Columns of SILVER, in the order that the model takes them in."""
    algorithm: str
    parameters: Mapping[str, Any]
    rows_available: int
    rows_trained: int
    score_quantiles: Annotated[tuple[float, ...], Field(min_length=101, max_length=101)]
    """Of the training rows' anomaly scores (higher: more anomalous): the 0th, 1st, ... 100th percentile."""
    threshold: float
    """An alert is a score above it."""
    libraries: Mapping[str, str]
    artifact: Artifact


def parse_card(text: bytes) -> ModelCard:
    """A card as stored. RejectedInput (`malformed_card`) where it is none."""
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "document"
        raise RejectedInput("malformed_card", f"not a model's card: {where}: {problem['msg'].lower()}") from error
