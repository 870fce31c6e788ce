"""A lake in a folder, datasets of the tests' own, and SILVER objects as plans bring them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import dataframely as dy
import polars as pl
import pytest

from acequia.datasets import Dataset, Registry
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia.work import Input, Work
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.lake import bring_in
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import STEM, Tables

OLD, NEW = "v1-aaaaaa", "v2-bbbbbb"
AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Anything(dy.Schema):
    """No rule: the transformer's business."""


def dataset(name: str, key: tuple[str, ...] = ()) -> Dataset:
    return Dataset(
        name=name,
        title=name,
        schema={"id": pl.Int64(), "name": pl.String()},
        contract=Anything,
        formats=(),
        patterns=(),
        readers=frozenset({"transformer", "lakehouse"}),
        key=key,
    )


REGISTRY = Registry({d.name: d for d in (dataset("visits"), dataset("people", ("id",)))})


class Killed(BaseException):
    """The process ended here."""


def die_at(step: str) -> Callable[[str], None]:
    def at(reached: str) -> None:
        if reached == step:
            raise Killed(step)

    return at


@dataclass(frozen=True, slots=True)
class Object:
    """A SILVER object."""

    stem: Stem
    variant: str
    frame: pl.DataFrame
    load: str | None = None

    @property
    def name(self) -> str:
        return f"{self.stem}.{self.variant}"


@dataclass(slots=True)
class Lake:
    """What the lakehouse works on, and plans to bring to it."""

    tables: Tables
    written: tuple[str, ...] = (OLD, NEW)
    rejected: set[str] = field(default_factory=set)

    def put(
        self, dataset: str, number: int, frame: pl.DataFrame, variant: str = OLD, load: str | None = None, part: int = 1
    ) -> Object:
        made = Object(Stem(dataset, AT + timedelta(seconds=number), f"{number:016x}", part), variant, frame, load)
        path = Path(self.tables.place.location(Layer.SILVER, data_key(made.stem, variant)))
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        return made

    def plan(
        self,
        number: int,
        *inputs: Object,
        window: Sequence[Object] = (),
        at: Callable[[str], None] = lambda step: None,
    ) -> dict[str, Any]:
        """Work one plan off; its commit object's document."""
        every = (*inputs, *window)
        name = every[0].stem.dataset

        def candidate(one: Object) -> dict[str, Any]:
            return {"key": data_key(one.stem, one.variant), "load": one.load}

        work = Work(
            stage="lakehouse",
            variant="v1-000000",
            stem=Stem(name, AT, plan=number),
            dataset=name,
            run_id=UUID(int=number),
            inputs=tuple(
                Input(Layer.SILVER, data_key(o.stem, o.variant), "etag", f"s3://silver/{o.name}", 1, o.frame.height)
                for o in every
            ),
            plan={
                "number": number,
                "inputs": [candidate(o) for o in inputs],
                "window": [candidate(o) for o in window],
            },
            written=self.written,
        )
        outcome = bring_in(
            work,
            [],
            Path(),
            tables=self.tables,
            registry=REGISTRY,
            rejected=lambda keys: [key in self.rejected for key in keys],
            at=at,
        )
        assert outcome.document is not None
        return dict(outcome.document)

    def rows(self, dataset: str, *columns: str) -> pl.DataFrame:
        """What a reader sees."""
        table = self.tables.find((self.tables.settings.namespace, dataset))
        if table is None:
            return pl.DataFrame()
        frame = pl.from_arrow(table.scan().to_arrow())
        assert isinstance(frame, pl.DataFrame)
        return frame.select(columns or pl.exclude(STEM))

    def snapshots(self, dataset: str) -> int:
        table = self.tables.find((self.tables.settings.namespace, dataset))
        return 0 if table is None else len(table.metadata.snapshots)


def open_lake(folder: Path, **settings: Any) -> Lake:
    return Lake(Tables(LakehouseSettings(**settings), Place.in_folder(folder, Buckets("test"))))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    made = open_lake(tmp_path)
    yield made
    made.tables.close()


def visits(*ids: int, name: str = "x") -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "name": [name] * len(ids)}, schema={"id": pl.Int64, "name": pl.String})


def version(load: int, part: int = 1) -> int:
    return (load << 20) + part


def people(load: int, rows: dict[int, str | None], part: int = 1) -> pl.DataFrame:
    """Rows of a part of a load; None: this one is gone."""
    return pl.DataFrame(
        {
            "id": list(rows),
            "name": list(rows.values()),
            "_version": [version(load, part)] * len(rows),
            "_deleted": [name is None for name in rows.values()],
        },
        schema={"id": pl.Int64, "name": pl.String, "_version": pl.Int64, "_deleted": pl.Boolean},
    )
