"""The transformer as the runner sees it."""

from functools import partial

from acequia.datasets import Registry
from acequia.layers import Layer
from acequia.stage import Stage
from acequia_transformer.settings import TransformerSettings
from acequia_transformer.transform import transform

VERSION = "1"
"""Raise it with each change of what `transform` writes."""


def build_stage(settings: TransformerSettings, registry: Registry) -> Stage:
    return Stage(
        name="transformer",
        version=VERSION,
        reads=Layer.RAW,
        writes=Layer.SILVER,
        process=partial(transform, registry=registry, burst_seconds=settings.burst_seconds),
        settings=settings.model_dump(),
    )
