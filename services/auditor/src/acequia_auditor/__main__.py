"""`python -m acequia_auditor`: the auditor as a process."""

import sys
from collections.abc import Sequence

from acequia.app import Service, leave, serve
from acequia.errors import ConfigurationError
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, PostgresSettings, load
from acequia_auditor.database import Database
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings


def main() -> None:
    try:
        postgres, own = load(PostgresSettings), load(AuditorSettings)
    except ConfigurationError as error:
        sys.stderr.write(f"acequia-auditor: {error}\n")
        leave(2)

    def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
        return (AuditorService(workshop, Database(postgres), own),)

    serve("auditor", build)


if __name__ == "__main__":
    main()
