"""One file per source: where rows come from that no file holds.

A module of this package that has a `SOURCE` is a source; there is nothing else to register.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from acequia.datasets import Dataset, Registry
from acequia.errors import RejectedInput
from acequia.events import SourceRequest
from acequia_ingestor.formats import Chunk
from acequia_ingestor.settings import IngestorSettings


class AskedFor(BaseModel):
    """What a request says of its source. A source's own model has `kind: Literal["<name>"]`, and forbids what it does
    not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from that no file holds."""

    name: str
    """The `kind` of a request for it."""
    title: str
    request: type[AskedFor]
    datasets: Callable[[Any, str | None, Registry, IngestorSettings], tuple[str, ...]]
    """Which datasets a request is for: the request (of the model `request`), the dataset that was named beside it.

    RejectedInput (`unknown_dataset`, `no_such_source`, `too_many_rows`, ..) where it can't be carried out: whoever
    asked is told, and nothing is stored.
    """
    draw: Callable[[Any, Dataset, datetime], Iterator[Chunk]] | None = None
    """For a source that gives the same rows each time it is asked the same: the request, the dataset, the time of
    acceptance."""
    tables: bool = False
    """For a database: its tables are loaded one by one, each from where its last load ended."""


def load_sources() -> Mapping[str, Source]:
    """Every source of this package by name. ValueError where two bear one name."""
    found: dict[str, Source] = {}
    for module in pkgutil.iter_modules(__path__):
        candidate = getattr(importlib.import_module(f"{__name__}.{module.name}"), "SOURCE", None)
        if isinstance(candidate, Source):
            if candidate.name in found:
                raise ValueError(f"two sources are named {candidate.name!r}")
            found[candidate.name] = candidate
    return MappingProxyType(dict(sorted(found.items())))


def read_request(source: SourceRequest, sources: Mapping[str, Source]) -> tuple[Source, AskedFor]:
    """The source that a command asks for, and its request. RejectedInput (`malformed_command`) where that is none."""
    if (known := sources.get(source.kind)) is None:
        raise RejectedInput("malformed_command", f"no source is named {source.kind!r}; there is: {', '.join(sources)}")
    try:
        return known, known.request.model_validate(source.model_dump(mode="json"))
    except ValidationError as error:
        raise RejectedInput("malformed_command", f"the source {source.kind} is not asked like this: {error}") from error


def named(dataset: str | None, registry: Registry) -> Dataset:
    """The dataset that a request names. RejectedInput (`unknown_dataset`) where it names none of ours."""
    if dataset is None or dataset not in registry:
        what = f"No dataset is named {dataset!r}" if dataset else "The request names no dataset"
        raise RejectedInput("unknown_dataset", f"{what}. There is: {', '.join(registry)}.", allowed=list(registry))
    return registry[dataset]
