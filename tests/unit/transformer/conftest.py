"""RAW objects for the transformer's tests."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import polars as pl
import pytest

from acequia.datasets import Dataset, load_registry
from acequia.layers import Stem
from acequia.work import Outcome, Work
from acequia_transformer.transform import transform

START = datetime(2025, 12, 20, 12, 0, tzinfo=UTC)
ORDINARY = {
    "timestamp": START,
    "src_ip": "10.0.0.1",
    "dst_ip": "10.0.0.2",
    "bytes": 1200,
    "duration": 1.5,
    "protocol": "tcp",
    "src_port": 40000,
    "dst_port": 443,
    "label": "benign",
}

Raw = Callable[[Sequence[dict[str, object]]], pl.DataFrame]
Transform = Callable[..., Outcome]


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return load_registry()["network_events"]


@pytest.fixture(scope="session")
def raw(dataset: Dataset) -> Raw:
    """Rows as RAW has them: an ordinary event, changed by what each row says; `_line` counts from 1."""

    def build(rows: Sequence[dict[str, object]]) -> pl.DataFrame:
        full = [{"_line": n, **ORDINARY, **row} for n, row in enumerate(rows, 1)]
        return pl.DataFrame(full, schema={"_line": pl.Int64(), **dataset.schema})

    return build


@pytest.fixture(scope="session")
def work() -> Work:
    stem = Stem("network_events", START, "9f2c4e1a7b3d5e60", 1)
    return Work("transformer", "v1-3fa9c1", stem, "network_events", UUID(int=1), ())


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory, work: Work) -> Transform:
    """Transform a frame, or a file's bytes, as a RAW object."""
    registry = load_registry()

    def call(given: pl.DataFrame | bytes, burst_seconds: int = 60) -> Outcome:
        folder = tmp_path_factory.mktemp("work")
        path, out = folder / "raw.parquet", folder / "out"
        out.mkdir()
        if isinstance(given, bytes):
            path.write_bytes(given)
        else:
            given.write_parquet(path)
        return transform(work, [Path(path)], out, registry=registry, burst_seconds=burst_seconds)

    return call
