"""SILVER features in, an anomaly detector and its card out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acequia.datasets import Registry
from acequia.stage import Candidate
from acequia.work import Outcome, Work
from acequia_trainer.settings import TrainerSettings


def compose(
    inputs: Sequence[Candidate], window: Sequence[Candidate], *, settings: TrainerSettings
) -> Mapping[str, Any]:
    raise NotImplementedError


def train(work: Work, inputs: Sequence[Path], out: Path, *, registry: Registry, settings: TrainerSettings) -> Outcome:
    raise NotImplementedError
