"""`python -m acequia_evaluator`: the evaluator as a process."""

from collections.abc import Sequence

import acequia._early  # noqa: F401
from acequia.app import Service, serve, stage_service
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia_evaluator.settings import EvaluatorSettings
from acequia_evaluator.stage import build_stage


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    stage = build_stage(load(EvaluatorSettings), workshop.registry)
    return (stage_service(stage, workshop, settings.concurrency),)


if __name__ == "__main__":
    serve("evaluator", build, EvaluatorSettings)
