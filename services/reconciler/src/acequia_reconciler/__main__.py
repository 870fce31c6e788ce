"""`python -m acequia_reconciler`: the reconciler as a process."""

from collections.abc import Sequence

import acequia._early  # noqa: F401
from acequia.app import Service, serve
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia.topology import topology
from acequia_reconciler.service import ReconcilerService, make_scheduler
from acequia_reconciler.settings import CommandSettings, ReconcilerSettings, ScheduleSettings


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    table = topology(settings.buckets, settings.retry_delays)
    scheduler = make_scheduler(workshop, load(ScheduleSettings), load(CommandSettings))
    return (ReconcilerService(workshop, table, load(ReconcilerSettings), scheduler),)


if __name__ == "__main__":
    serve("reconciler", build, ReconcilerSettings, ScheduleSettings, CommandSettings)
