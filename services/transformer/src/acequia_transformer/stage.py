"""The transformer as the runner sees it."""

from collections.abc import Sequence
from pathlib import Path

from acequia.datasets import Registry
from acequia.layers import Layer
from acequia.stage import Stage
from acequia.work import Outcome, Work
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.transform import transform
from acequia_transformer.turns import Turns

VERSION = "1"
"""Raise it with each change of what `transform` writes."""
ROWS_AT_ONCE = 1_000_000
"""In all objects that are in work at once: about 600 MiB. polars uses every core for one alone."""


def build_stage(settings: TransformerSettings, registry: Registry) -> Stage:
    turns = Turns(ROWS_AT_ONCE)

    def process(work: Work, inputs: Sequence[Path], out: Path) -> Outcome:
        told = work.inputs[0].rows if work.inputs else None
        with turns.take(ROWS_AT_ONCE if told is None else told):
            return transform(work, inputs, out, registry=registry, burst_seconds=settings.burst_seconds)

    return Stage(
        name="transformer",
        version=VERSION,
        reads=Layer.RAW,
        writes=Layer.SILVER,
        process=process,
        settings=settings.model_dump(),
    )
