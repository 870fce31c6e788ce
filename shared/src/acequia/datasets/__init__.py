"""One file per dataset: its contract, source formats, readers. `load_registry` finds them.

A module of this package that has a `DATASET` is a dataset; there is nothing else to register.
"""

import importlib
import pkgutil
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from fnmatch import fnmatch
from types import MappingProxyType
from typing import Any

import dataframely as dy
import polars as pl

VERSION = "_version"
"""Column of a table's rows beside its own: the newest of a key is what counts. `load_number * 2**20 + part`."""
DELETED = "_deleted"
"""Column of a table's rows beside its own: the key's row is gone. Its other columns mean nothing."""
PARTS_MOST = 2**20
"""Parts of one load of a table, less one."""


class OnChange(StrEnum):
    """What follows where a source no longer has a column, or gives it another type. New columns always pass."""

    EVOLVE = "evolve"
    """The column is null from now on; a wider type of the same kind is taken on."""
    FREEZE = "freeze"
    """The load is rejected, and the source read again at the next one."""
    QUARANTINE = "quarantine"
    """The load's rows go to quarantine."""


class OnFailure(StrEnum):
    """What follows from a check that fails. It is recorded in any case."""

    WARN = "warn"
    BLOCK = "block"
    """The data go no further than RAW."""
    QUARANTINE = "quarantine"
    """The data go to quarantine instead of RAW."""


@dataclass(frozen=True, slots=True)
class Check:
    """A question asked of each load of a table. Just one of `sql` and `rows`."""

    name: str
    on_failure: OnFailure = OnFailure.WARN
    sql: str | None = None
    """A query at the source, in the load's own snapshot, that gives one number: how many are wrong."""
    rows: pl.Expr | None = None
    """Of each loaded row: true where it is as it should be, or null."""


@dataclass(frozen=True, slots=True)
class Table:
    """Where a dataset's rows lie in a transactional database, and how their changes are found."""

    relation: str
    """With its schema: `public.accounts`."""
    pack: str
    """The tables that are asked for together: `acequia ingest tables` without --tables takes all of a pack."""
    cursor: str | None = None
    """Column that grows with each change of a row. None: the table is always read in full."""
    lag: timedelta = timedelta(minutes=15)
    """How much earlier than it becomes visible a change may be stamped: as long as the longest transaction."""
    deleted: str | None = None
    """Column that says that a row is deleted: true, or not null."""
    compare_keys_every: timedelta | None = timedelta(days=1)
    """How often all keys are compared, to find rows that are gone. None: rows are never removed."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """SQL for canonical columns that are not just the column of that name; the table is `t`: `upper(t.name)`."""
    on_change: OnChange = OnChange.EVOLVE
    fresh_within: timedelta | None = timedelta(hours=48)
    """How old the newest change may be; needs `cursor`."""
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Foreign keys: column, and the dataset and its column that it points at."""
    severities: Mapping[str, OnFailure] = field(default_factory=dict)
    """Of the checks that every table has (row_count, duplicate_keys, references, freshness, contract), where it is not
    the usual one."""


class Misfire(StrEnum):
    """What follows where a schedule's time passed while nobody was there to fire it."""

    NONE = "none"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a dataset is to be ingested without being asked. It fires only where ACEQUIA_SCHEDULES names it."""

    name: str
    cron: str
    """Five fields: minute, hour, day, month, weekday."""
    timezone: str
    """IANA name: `America/Mexico_City`."""
    source: Mapping[str, Any]
    """As in POST /ingestions."""
    misfire: Misfire = Misfire.LAST


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
    """Names of the source formats that give this dataset. A format's own file may name a dataset, too."""
    patterns: tuple[str, ...]
    """File name patterns (shell style, any case) of files dropped without a word of what they are."""
    readers: frozenset[str]
    """Stages that apply to it; for the others its objects are 'not applicable'."""
    event_time: str | None = None
    """Column that says when it happened (UTC, microseconds). The trainer needs one."""
    required: tuple[str, ...] = ()
    """Columns that a source in canonical form must have; it may leave out the others."""
    lowered: frozenset[str] = frozenset()
    """String columns whose case means nothing: every reader stores them in lower case."""
    uppered: frozenset[str] = frozenset()
    """The same, stored in upper case: names that people know in capitals."""
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Canonical columns: what people write above them, beside the canonical name. Case, accents, punctuation and line
    breaks do not matter; a unit does, so name it (`Presión (psi)`). Read by the format `people_csv`."""
    clocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns of moments, whose time of day people may write into a column of its own: what stands above that (`Hora`),
    compared as `spellings` are."""
    csv: Mapping[str, str] = field(default_factory=dict)
    """How people write its CSV files, where that is not to be told from their content: options of `people_csv`."""
    from_name: Mapping[str, str] = field(default_factory=dict)
    """String columns that a file's name tells where its rows do not: a regular expression with one group for each."""
    features: tuple[str, ...] = ()
    """Columns of SILVER that a model is trained on: numeric, null where not measured."""
    synthetic: bool = False
    """Whether the ingestor has a generator for it."""
    max_rejected_share: float = 0.5
    """An object of whose rows a larger share breaks the contract is rejected whole."""
    key: tuple[str, ...] = ()
    """Primary key: its rows change, and the newest of each key is what counts. Without one they are events, which only
    come."""
    table: Table | None = None
    """Where the rows of a dataset with a `key` lie in a database."""
    checks: tuple[Check, ...] = ()
    """Asked of each load, beside those that every table has."""
    schedules: tuple[Schedule, ...] = ()

    def __post_init__(self) -> None:
        """ValueError where the file contradicts itself."""
        spelled = (*self.spellings, *self.clocks, *self.from_name)
        named = (*self.key, *self.required, *self.lowered, *self.uppered, *spelled)
        unknown = [name for name in named if name not in self.schema]
        if self.event_time is not None and self.event_time not in self.schema:
            unknown.append(self.event_time)
        if unknown:
            raise ValueError(f"dataset {self.name}: its schema has no column {', '.join(unknown)}")
        if "trainer" in self.readers and self.event_time is None:
            raise ValueError(f"dataset {self.name}: the trainer needs to know the event_time")
        if self.table is not None:
            if not self.key:
                raise ValueError(f"dataset {self.name}: a table has a key")
            told = (self.table.cursor, self.table.deleted, *self.table.columns, *self.table.references)
            if unknown := [name for name in told if name is not None and name not in self.schema]:
                raise ValueError(f"dataset {self.name}: its table names {', '.join(unknown)}, which its schema lacks")

    @property
    def stored_schema(self) -> Mapping[str, pl.DataType]:
        """The columns of RAW that are the same in each of its objects, in order, but for `_line` of what has no key."""
        if not self.key:
            return self.schema
        return MappingProxyType({**self.schema, VERSION: pl.Int64(), DELETED: pl.Boolean()})

    @property
    def time_column(self) -> str:
        """`event_time`, which a dataset that is trained on has. ValueError where it has none."""
        if self.event_time is None:
            raise ValueError(f"{self.name} has no event_time")
        return self.event_time


_WIDER: tuple[tuple[type[pl.DataType], ...], ...] = (
    (pl.Int8, pl.Int16, pl.Int32, pl.Int64),
    (pl.Float32, pl.Float64),
)


def widens(found: pl.DataType, expected: pl.DataType) -> bool:
    """Whether `found` is of the same kind as `expected` and holds more: a column may become that."""
    if isinstance(found, pl.Decimal) and isinstance(expected, pl.Decimal):
        return found.scale == expected.scale and found.precision > expected.precision
    if isinstance(found, pl.List) and isinstance(expected, pl.List):
        return widens(pl.Series(dtype=found.inner).dtype, pl.Series(dtype=expected.inner).dtype)
    return any(
        type(found) in kind and type(expected) in kind and kind.index(type(found)) > kind.index(type(expected))
        for kind in _WIDER
    )


def column_of(dtype: pl.DataType, *, alias: str | None = None) -> dy.Column:
    """A column of a contract that may hold anything of the type `dtype`, nulls too. ValueError where there is none."""
    plain: Mapping[type[pl.DataType], type[dy.Column]] = {
        pl.Int8: dy.Int8,
        pl.Int16: dy.Int16,
        pl.Int32: dy.Int32,
        pl.Int64: dy.Int64,
        pl.Boolean: dy.Bool,
        pl.String: dy.String,
        pl.Binary: dy.Binary,
        pl.Date: dy.Date,
        pl.Time: dy.Time,
    }
    if (kind := plain.get(type(dtype))) is not None:
        return kind(nullable=True, alias=alias)
    match dtype:
        case pl.Float32():
            return dy.Float32(nullable=True, allow_inf=True, allow_nan=True, alias=alias)
        case pl.Float64():
            return dy.Float64(nullable=True, allow_inf=True, allow_nan=True, alias=alias)
        case pl.Datetime():
            return dy.Datetime(nullable=True, time_unit=dtype.time_unit, time_zone=dtype.time_zone, alias=alias)
        case pl.Decimal():
            return dy.Decimal(dtype.precision, dtype.scale, nullable=True, alias=alias)
        case pl.List():
            return dy.List(column_of(pl.Series(dtype=dtype.inner).dtype), nullable=True, alias=alias)
        case _:
            raise ValueError(f"no column of a contract has the type {dtype}")


def contract_with(contract: type[dy.Schema], columns: Mapping[str, pl.DataType]) -> type[dy.Schema]:
    """The same rules over rows that have `columns` too, or have them with these types."""
    known = set(contract.column_names())
    attributes = {
        name if name in known else f"column_{n}": column_of(dtype, alias=None if name in known else name)
        for n, (name, dtype) in enumerate(columns.items())
    }
    return types.new_class(contract.__name__, (contract,), exec_body=lambda namespace: namespace.update(attributes))


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
