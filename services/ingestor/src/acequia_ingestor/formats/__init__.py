"""One file per source format: how it is recognised, and how its records become canonical rows.

A module of this package that has a `FORMAT` is a format; there is nothing else to register.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import polars as pl

from acequia.datasets import Dataset

REJECTED_SCHEMA: Mapping[str, pl.DataType] = MappingProxyType(
    {"_line": pl.Int64(), "rule": pl.String(), "reason": pl.String(), "raw": pl.String()}
)


@dataclass(frozen=True, slots=True)
class Head:
    """What detection sees: the first bytes, unpacked. `whole` says that there is nothing after them."""

    data: bytes
    file_name: str = ""
    whole: bool = False

    def lines(self) -> list[str]:
        """The whole lines of the head, without BOM and line ends; bytes that are no UTF-8 are replaced."""
        lines = self.data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if not self.whole:
            lines = lines[:-1]
        return [line.decode("utf-8", "replace").rstrip("\r") for line in lines]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of the source's records. `records = rows.height + rejected.height`."""

    rows: pl.DataFrame
    """Canonical schema, `_line`, and `_record` (Int64: the record's number in this chunk, from 0), in order."""
    rejected: pl.DataFrame
    """REJECTED_SCHEMA, in order."""
    records: int
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """How one file is read, where its format leaves that open."""

    options: Mapping[str, str]
    """All that its rows depend on besides its bytes."""
    told_by: Mapping[str, str]
    """Who said each option: `upload`, `dataset`, `content`; `default` where nobody did; `unused` where it does not
    matter."""
    ignored: Sequence[str] = ()
    """Columns of the file that the dataset does not have."""


@dataclass(frozen=True, slots=True)
class Format:
    """A source format. Which datasets it gives is said by their own files, or here by `datasets`."""

    name: str
    title: str
    detect: Callable[[Head, Dataset], bool]
    """Whether the content is surely of this format."""
    read: Callable[[Path, Dataset], Iterator[Chunk]]
    """The records of an unpacked file, in bounded memory. RejectedInput where the whole file is no good."""
    survey: Callable[[Path, Dataset, Mapping[str, str]], Reading] | None = None
    """For a format that can be read in several ways: which one this unpacked file needs. What is asked for, as in
    `csv_options`, comes before what the file tells."""
    read_as: Callable[[Path, Dataset, Reading], Iterator[Chunk]] | None = None
    """Beside `survey`: `read` by what it found."""
    datasets: tuple[str, ...] = ()
    """Datasets that it gives and whose own files do not name it."""
    description: str = ""
    """What its module's docstring says. `load_formats` puts it here."""


def load_formats() -> Mapping[str, Format]:
    """Every format of this package by name. ValueError where two bear one name."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        candidate = getattr(loaded, "FORMAT", None)
        if isinstance(candidate, Format):
            if candidate.name in found:
                raise ValueError(f"two formats are named {candidate.name!r}")
            found[candidate.name] = replace(candidate, description=inspect.getdoc(loaded) or "")
    return MappingProxyType(dict(sorted(found.items())))


def formats_of(dataset: Dataset, formats: Mapping[str, Format]) -> tuple[str, ...]:
    """Names of the formats that give `dataset`: those of its own file, then those that name it."""
    more = (name for name, format in formats.items() if dataset.name in format.datasets)
    return (*dataset.formats, *(name for name in more if name not in dataset.formats))
