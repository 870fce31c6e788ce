"""`python -m acequia_reconciler`: the reconciler as a process."""

from collections.abc import Sequence

import acequia._early  # noqa: F401
from acequia.app import Service, serve
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, load
from acequia.topology import topology
from acequia_reconciler.service import ReconcilerService
from acequia_reconciler.settings import ReconcilerSettings


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    table = topology(settings.buckets, settings.retry_delays)
    return (ReconcilerService(workshop, table, load(ReconcilerSettings)),)


if __name__ == "__main__":
    serve("reconciler", build, ReconcilerSettings)
