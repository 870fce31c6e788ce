"""A model trained by the real trainer, and a way to evaluate it as the runner would."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import polars as pl
import pytest

from acequia.datasets import load_registry
from acequia.layers import Layer, Stem
from acequia.work import Input, Outcome, Work
from acequia_evaluator.evaluate import evaluate, needs
from acequia_evaluator.settings import EvaluatorSettings
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.train import train

START = datetime(2025, 12, 20, 12, 0, tzinfo=UTC)
STEM = Stem("network_events", datetime(2025, 12, 20, 12, 12, 9, tzinfo=UTC), plan=3)
FEATURES = load_registry()["network_events"].features
SILVER_KEY = "network_events/date=2025-12-20/network_events_20251220_120000_9f2c4e1a7b3d5e60_0001.v1-3fa9c1.parquet"
CARD_KEY = f"network_events/date=2025-12-20/{STEM}.v1-aaaaaa/model.json"
MODEL_ID = f"{STEM}.v1-aaaaaa"


def silver_rows(rows: int, *, attack_every: int = 0, label: str | None = "benign", shift: float = 3.0) -> pl.DataFrame:
    """SILVER as far as a model is concerned; each `attack_every`-th row is an attack, `shift` away in every feature."""
    draw = np.random.default_rng(5)
    number = np.arange(rows)
    attack = (number % attack_every == attack_every - 1) if attack_every else np.zeros(rows, dtype=bool)
    return pl.DataFrame(
        {
            "timestamp": [START + timedelta(seconds=int(n)) for n in number],
            "label": ["port_scan" if a else label for a in attack],
            **{name: draw.normal(size=rows) + shift * attack for name in FEATURES},
        },
        schema_overrides={"timestamp": pl.Datetime("us", "UTC"), "label": pl.String},
    )


@dataclass
class Case:
    """A trained model and its files; `evaluate` runs the stage on them, `card` may be tampered with before."""

    folder: Path
    silver: Path
    model: Path
    model_key: str
    card: dict[str, Any]
    champion: Mapping[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def evaluate(self) -> Outcome:
        card = self.folder / "model.json"
        card.write_text(json.dumps(self.card))
        champion = self.folder / "champion.json"
        if self.champion is not None:
            champion.write_text(json.dumps(self.champion))
        first = Input(Layer.MODELS, CARD_KEY, "card-etag", f"s3://models/{CARD_KEY}")
        work = Work("evaluator", "v1-bbbbbb", STEM, "network_events", UUID(int=77), (first,))
        files = {self.model_key: self.model, SILVER_KEY: self.silver, "network_events/champion.json": champion}
        refs = needs(work, card)
        there = "" if self.champion is None else "champion-etag"
        further = tuple(
            Input(r.layer, r.key, there if r.optional else r.etag or "etag", f"s3://x/{r.key}") for r in refs
        )
        out = self.folder / f"out{len(list(self.folder.iterdir()))}"
        out.mkdir()
        return evaluate(
            replace(work, inputs=(first, *further)),
            [card, *(files[r.key] for r in refs)],
            out,
            registry=load_registry(),
            settings=EvaluatorSettings.model_validate(self.settings),
        )


@pytest.fixture
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    """Train on a frame; `changed` takes its place in SILVER afterwards."""

    def build(frame: pl.DataFrame, changed: pl.DataFrame | None = None, **settings: object) -> Case:
        folder = tmp_path_factory.mktemp("case")
        silver, out = folder / "silver.parquet", folder / "trained"
        out.mkdir()
        frame.write_parquet(silver)
        work = Work(
            "trainer",
            "v1-aaaaaa",
            STEM,
            "network_events",
            UUID(int=77),
            (Input(Layer.SILVER, SILVER_KEY, "silver-etag", f"s3://silver/{SILVER_KEY}"),),
            {"number": 3, "created_at": "2025-12-20T12:12:09+00:00", "inputs": [{"run_id": str(UUID(int=1))}]},
        )
        outcome = train(
            work, [silver], out, registry=load_registry(), settings=TrainerSettings.model_validate(settings)
        )
        if changed is not None:
            changed.write_parquet(silver)
        (beside,) = outcome.beside
        return Case(folder, silver, beside.path, beside.key, dict(outcome.document or {}))

    return build
