"""`python -m acequia_auditor`: the auditor as a process."""

from collections.abc import Sequence

from acequia.app import Service, serve
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, PostgresSettings, load
from acequia_auditor.database import Database
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    return (AuditorService(workshop, Database(load(PostgresSettings)), load(AuditorSettings)),)


if __name__ == "__main__":
    serve("auditor", build, PostgresSettings, AuditorSettings)
