"""One file per dataset: its contract, source formats, readers. `load_registry` finds them.

A module of this package that has a `DATASET` is a dataset; there is nothing else to register.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from types import MappingProxyType

import dataframely as dy
import polars as pl


@dataclass(frozen=True, slots=True)
class Dataset:
    """What Acequia must know of a kind of data. One file per dataset gives one of these."""

    name: str
    title: str
    schema: Mapping[str, pl.DataType]
    """Canonical columns of RAW, in order (RAW has `_line`, Int64, beside them)."""
    contract: type[dy.Schema]
    """The rules a canonical row must keep; each is named in quarantine and in the counts."""
    formats: tuple[str, ...]
    """Names of the source formats that give this dataset, the most telling first: the order of detection."""
    patterns: tuple[str, ...]
    """File name patterns (shell style, any case) of files dropped without a word of what they are."""
    readers: frozenset[str]
    """Stages that apply to it; for the others its objects are 'not applicable'."""
    event_time: str
    """Column that says when it happened."""
    required: tuple[str, ...] = ()
    """Columns that a source in canonical form must have; it may leave out the others."""
    lowered: frozenset[str] = frozenset()
    """String columns whose case means nothing: every reader stores them in lower case."""
    features: tuple[str, ...] = ()
    """Columns of SILVER that a model is trained on: numeric, null where not measured."""
    synthetic: bool = False
    """Whether the ingestor has a generator for it."""
    max_rejected_share: float = 0.5
    """An object of whose rows a larger share breaks the contract is rejected whole."""


class Registry(Mapping[str, Dataset]):
    """The datasets by name."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = MappingProxyType(dict(sorted(datasets.items())))

    def __getitem__(self, name: str) -> Dataset:
        return self._datasets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._datasets)

    def __len__(self) -> int:
        return len(self._datasets)

    def matching(self, file_name: str) -> list[Dataset]:
        """The datasets one of whose patterns matches the file's name."""
        lowered = file_name.lower()
        return [d for d in self.values() if any(fnmatch(lowered, p.lower()) for p in d.patterns)]


def load_registry() -> Registry:
    """Every dataset of this package. ValueError where two bear one name."""
    found: dict[str, Dataset] = {}
    for module in pkgutil.iter_modules(__path__):
        dataset = getattr(importlib.import_module(f"{__name__}.{module.name}"), "DATASET", None)
        if isinstance(dataset, Dataset):
            if dataset.name in found:
                raise ValueError(f"two datasets are named {dataset.name!r}")
            found[dataset.name] = dataset
    return Registry(found)
