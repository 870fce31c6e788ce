"""RAW events in, clean and feature-engineered SILVER events out."""

from collections.abc import Sequence
from pathlib import Path

from acequia.datasets import Registry
from acequia.work import Outcome, Work


def transform(work: Work, inputs: Sequence[Path], out: Path, *, registry: Registry, burst_seconds: int) -> Outcome:
    raise NotImplementedError
