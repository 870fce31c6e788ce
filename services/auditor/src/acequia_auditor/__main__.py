"""`python -m acequia_auditor`: the auditor as a process. `python -m acequia_auditor migrate`: the database, once."""

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

import acequia._early  # noqa: F401
from acequia.app import Service, configure_logging, serve
from acequia.errors import ConfigurationError, TransientFailure
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, PostgresSettings, check, load
from acequia_auditor.database import Database
from acequia_auditor.migrate import bring_up_to_date
from acequia_auditor.service import AuditorService
from acequia_auditor.settings import AuditorSettings, MigrationSettings

log = logging.getLogger("acequia")

PATIENCE = 60
"""Seconds, about, that `migrate` waits for a server that is away."""


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    database = Database(load(PostgresSettings), migration=load(MigrationSettings))
    return (AuditorService(workshop, database, load(AuditorSettings)),)


async def migrate() -> int:
    """Exit code: 0; 1 where PostgreSQL is away, 2 where a person must act."""
    try:
        check(AcequiaSettings, PostgresSettings, MigrationSettings)
        configure_logging(load(AcequiaSettings).log_level)
        for waited in range(PATIENCE + 1):
            try:
                done = await bring_up_to_date(load(PostgresSettings), load(MigrationSettings))
            except TransientFailure as error:
                if waited == PATIENCE:
                    sys.stderr.write(f"acequia-auditor migrate: {error}\n")
                    return 1
                log.warning("migrate: %s; trying again", error)
                await asyncio.sleep(1)
            else:
                log.info("migrate: %s", done)
                return 0
    except ConfigurationError as error:
        sys.stderr.write(f"acequia-auditor migrate: {error}\n")
    return 2


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            serve("auditor", build, PostgresSettings, MigrationSettings, AuditorSettings)
        case ["migrate"]:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cut short is not done
            sys.exit(asyncio.run(migrate()))
        case _:
            sys.exit("usage: python -m acequia_auditor [migrate]")
