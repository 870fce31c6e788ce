"""A model card in, its evaluation and the decision about it out."""

from collections.abc import Sequence
from pathlib import Path

from acequia.datasets import Registry
from acequia.work import Outcome, Ref, Work
from acequia_evaluator.settings import EvaluatorSettings


def needs(work: Work, first: Path) -> Sequence[Ref]:
    raise NotImplementedError


def evaluate(
    work: Work, inputs: Sequence[Path], out: Path, *, registry: Registry, settings: EvaluatorSettings
) -> Outcome:
    raise NotImplementedError
