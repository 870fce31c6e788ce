"""What a plan brings to a table: its SILVER objects, and which of two of one stem is the newer. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from acequia.events import Load
from acequia.layers import Name, variant_version
from acequia.work import Work
from acequia_lakehouse.catalog import Place


@dataclass(frozen=True, slots=True)
class Given:
    """A SILVER object."""

    stem: str
    variant: str
    location: str
    """Where it lies, as a table's metadata would say it."""
    uri: str
    rows: int | None
    load: Load | None = None
    schema: pa.Schema | None = None
    """Of the file, once that was read."""

    @property
    def name(self) -> str:
        return f"{self.stem}.{self.variant}"

    def seen(self, schema: pa.Schema) -> "Given":
        return replace(self, schema=schema)


@dataclass(frozen=True, slots=True)
class Skipped:
    """An object that cannot come into the table, and why: it lies in SILVER as before."""

    uri: str
    reason: str


@dataclass(slots=True)
class Report:
    """What became of a plan, for its commit object."""

    table: str
    snapshot: int | None = None
    """The snapshot that it made; None where there was nothing to do, or it is expired."""
    rows_in: int = 0
    rows_added: int = 0
    registered: int = 0
    """Objects that lie in SILVER and are the table's files now."""
    copied: int = 0
    """Objects whose rows were written into the lake."""
    already: int = 0
    older: int = 0
    """Objects of which a newer variant, or a newer load, was there."""
    replaced: list[str] = field(default_factory=list)
    """Objects (`<stem>.<variant>`) that newer ones of the plan took the place of."""
    rows_updated: int = 0
    rows_deleted: int = 0
    rows_outdated: int = 0
    """Rows that came with an older version than the table has of their key."""
    loads: list[dict[str, Any]] = field(default_factory=list)
    """Of each full load that the plan has a part of: its number, its parts, and what became of it."""
    columns_added: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        said = {name: getattr(self, name) for name in self.__slots__ if name != "skipped"}
        return {"schema_version": 1, **said, "skipped": [{"uri": s.uri, "reason": s.reason} for s in self.skipped]}


def given_by(work: Work, place: Place) -> list[Given]:
    """The plan's objects, and those of earlier plans that it needs."""
    loads = {c["key"]: c.get("load") for c in (*work.plan.get("inputs", ()), *work.plan.get("window", ()))}
    found = []
    for source in work.inputs:
        name = Name.of_key(source.key)
        if name is not None:
            load = Load.parse(loads.get(source.key))
            location = place.location(source.layer, source.key)
            found.append(Given(str(name.stem), name.variant or "", location, source.uri, source.rows, load))
    return found


class Order:
    """Which of two variants is the newer: the higher version, then the later to appear; one that is not known yet."""

    def __init__(self, written: Sequence[str]) -> None:
        self._places = {variant: place for place, variant in enumerate(written)}

    def rank(self, variant: str) -> tuple[int, int]:
        try:
            version = variant_version(variant)
        except ValueError:
            version = -1
        return version, self._places.get(variant, len(self._places))

    def ranks(self, variants: Iterable[str]) -> dict[str, int]:
        """A number for each, the greater the newer."""
        return {v: number for number, v in enumerate(sorted(set(variants), key=self.rank))}


def parse_name(text: str) -> tuple[str, str]:
    """Stem and variant of `<stem>.<variant>`."""
    stem, _, variant = text.partition(".")
    return stem, variant
