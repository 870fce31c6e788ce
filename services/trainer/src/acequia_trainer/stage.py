"""The trainer as the batch runner sees it."""

from functools import partial

from acequia.datasets import Registry
from acequia.layers import Layer
from acequia.stage import BatchStage
from acequia_trainer.settings import NOT_IN_VARIANT, TrainerSettings
from acequia_trainer.train import compose, train

VERSION = "1"
"""Raise it with each change of what `train` writes."""


def build_stage(settings: TrainerSettings, registry: Registry) -> BatchStage:
    return BatchStage(
        name="trainer",
        version=VERSION,
        reads=Layer.SILVER,
        writes=Layer.MODELS,
        process=partial(train, registry=registry, settings=settings),
        commit_file="model.json",
        compose=partial(compose, settings=settings),
        window_days=settings.window_days,
        settings=settings.model_dump(exclude=set(NOT_IN_VARIANT)),
        gather_quiet=settings.gather_quiet,
        gather_most=settings.gather_most,
    )
