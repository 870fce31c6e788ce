"""`python -m acequia_trainer`: the trainer as a process."""

from collections.abc import Sequence

import acequia._early  # noqa: F401
from acequia.app import Service, batch_service, serve
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia_trainer.settings import TrainerSettings
from acequia_trainer.stage import build_stage


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    stage = build_stage(load(TrainerSettings), workshop.registry)
    stale_after, renew_every = settings.plan_stale_after, settings.plan_renew_every
    return (batch_service(stage, workshop, stale_after=stale_after, renew_every=renew_every),)


if __name__ == "__main__":
    serve("trainer", build, TrainerSettings)
