"""The evaluator as the runner sees it."""

from functools import partial

from acequia.datasets import Registry
from acequia.layers import Layer
from acequia.stage import Stage
from acequia_evaluator.evaluate import evaluate, needs
from acequia_evaluator.settings import EvaluatorSettings

VERSION = "1"
"""Raise it with each change of what `evaluate` writes or decides."""


def build_stage(settings: EvaluatorSettings, registry: Registry) -> Stage:
    return Stage(
        name="evaluator",
        version=VERSION,
        reads=Layer.MODELS,
        writes=Layer.EVAL,
        process=partial(evaluate, registry=registry, settings=settings),
        settings=settings.model_dump(),
        commit_file="evaluation.json",
        needs=needs,
    )
