"""SILVER objects for the trainer's tests, and a way to train on them."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import polars as pl
import pytest

from acequia.datasets import load_registry
from acequia.layers import Layer, Stem
from acequia.stage import Candidate
from acequia.work import Input, Outcome, Work
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.train import compose, train

START = datetime(2025, 12, 20, 12, 0, tzinfo=UTC)
FEATURES = load_registry()["network_events"].features

Silver = Callable[..., pl.DataFrame]
Train = Callable[..., tuple[Outcome, Work]]


def silver_rows(rows: int, *, seed: int = 0, start: datetime = START) -> pl.DataFrame:
    """SILVER as far as a model is concerned: a row a second; every fifth duration was not measured."""
    draw = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "timestamp": [start + timedelta(seconds=n) for n in range(rows)],
            "label": ["benign"] * rows,
            **{name: draw.normal(size=rows) for name in FEATURES},
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
    )
    return frame.with_columns(pl.when(pl.int_range(pl.len()) % 5 > 0).then("log_duration"))


def candidate(number: int, rows: int | None) -> Candidate:
    stem = Stem("network_events", START, f"{number:016x}", 1)
    return Candidate(
        key=f"{stem.folder}/{stem}.v1-3fa9c1.parquet",
        etag=f"etag{number}",
        stem=str(stem),
        variant="v1-3fa9c1",
        bytes=1,
        rows=rows,
        time_min=None,
        time_max=None,
        run_id=str(UUID(int=number)),
    )


@pytest.fixture
def train_on(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train on frames (plan inputs, then window), as the batch runner would."""

    def call(
        new: Sequence[pl.DataFrame | bytes], window: Sequence[pl.DataFrame] = (), **settings: object
    ) -> tuple[Outcome, Work]:
        folder = tmp_path_factory.mktemp("train")
        chosen = TrainerSettings.model_validate(settings)
        frames = [*new, *window]
        candidates = [candidate(n, f.height if isinstance(f, pl.DataFrame) else 0) for n, f in enumerate(frames, 1)]
        paths: list[Path] = []
        for n, frame in enumerate(frames):
            path = folder / f"{n}.parquet"
            paths.append(path)
            if isinstance(frame, bytes):
                path.write_bytes(frame)
            else:
                frame.write_parquet(path)
        old = candidates[len(new) :]
        plan = {
            "number": 3,
            "created_at": "2025-12-20T12:12:09+00:00",
            "inputs": [asdict(c) for c in candidates[: len(new)]],
            **compose(candidates[: len(new)], old, settings=chosen),
        }
        work = Work(
            "trainer",
            "v1-aaaaaa",
            Stem("network_events", datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC), plan=3),
            "network_events",
            UUID(int=77),
            tuple(Input(Layer.SILVER, c.key, c.etag, f"s3://silver/{c.key}") for c in candidates),
            plan,
        )
        out = folder / "out"
        out.mkdir()
        return train(work, paths, out, registry=load_registry(), settings=chosen), work

    return call
