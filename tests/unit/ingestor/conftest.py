"""A file of given bytes, parsed as network events."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import polars as pl
import pytest

from acequia.datasets import Dataset, load_registry
from acequia_ingestor.parse import Parsed, parse_file


@dataclass(frozen=True)
class Result:
    """What came of a file: all its rows and all its rejected rows, in order, and the account of them."""

    parsed: Parsed
    rows: pl.DataFrame
    rejected: pl.DataFrame


Parse = Callable[..., Result]


@pytest.fixture(scope="session")
def network_events() -> Dataset:
    return load_registry()["network_events"]


@pytest.fixture
def parse(tmp_path: Path, network_events: Dataset) -> Parse:
    numbers = count()

    def of(
        content: bytes | str | Path,
        *,
        format: str | None = None,
        name: str = "file",
        rows_per_part: int = 1_000_000,
        **limits: float,
    ) -> Result:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        if isinstance(content, Path):
            source = content
        else:
            source = folder / "source"
            source.write_bytes(content if isinstance(content, bytes) else content.encode())
        parsed = parse_file(source, name, network_events, format, folder / "out", rows_per_part=rows_per_part, **limits)  # type: ignore[arg-type]
        rows = pl.concat([pl.read_parquet(part.path) for part in parsed.parts])
        rejected = pl.read_parquet(parsed.rejected_rows) if parsed.rejected_rows else pl.DataFrame()
        assert parsed.rows_in == rows.height + rejected.height == rows.height + sum(parsed.rejected.values())
        assert [part.rows for part in parsed.parts] == [
            pl.scan_parquet(part.path).select(pl.len()).collect().item() for part in parsed.parts
        ]
        return Result(parsed, rows, rejected)

    return of
