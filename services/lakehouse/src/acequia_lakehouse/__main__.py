"""`python -m acequia_lakehouse`: the lakehouse as a process. `... prepare`: the catalog's database, once."""

import logging
import signal
import sys
import time
from collections.abc import Sequence

import acequia._early  # noqa: F401
from acequia.app import Service, configure_logging, serve
from acequia.errors import ConfigurationError, TransientFailure
from acequia.runner import Workshop
from acequia.settings import AcequiaSettings, MinioSettings, check, load
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.prepare import prepare_database
from acequia_lakehouse.service import build_lakehouse
from acequia_lakehouse.settings import LakehouseSettings, OwnerSettings

log = logging.getLogger("acequia")

PATIENCE = 60
"""Seconds, about, that `prepare` waits for a server that is away."""


def build(workshop: Workshop, settings: AcequiaSettings) -> Sequence[Service]:
    place = Place.on_server(load(MinioSettings), settings.buckets)
    stale_after, renew_every = settings.plan_stale_after, settings.plan_renew_every
    return [build_lakehouse(workshop, load(LakehouseSettings), place, stale_after=stale_after, renew_every=renew_every)]


def prepare() -> int:
    """Exit code: 0; 1 where PostgreSQL is away, 2 where a person must act."""
    try:
        check(AcequiaSettings, LakehouseSettings, OwnerSettings)
        configure_logging(load(AcequiaSettings).log_level)
        settings, owner = load(LakehouseSettings), load(OwnerSettings)
        catalog = settings.catalog_uri.get_secret_value() if settings.catalog == "sql" else settings.catalog
        for waited in range(PATIENCE + 1):
            try:
                done = prepare_database(catalog, owner.uri.get_secret_value())
            except TransientFailure as error:
                if waited == PATIENCE:
                    sys.stderr.write(f"acequia-lakehouse prepare: {error}\n")
                    return 1
                log.warning("prepare: %s; trying again", error)
                time.sleep(1)
            else:
                log.info("prepare: %s", done)
                return 0
    except ConfigurationError as error:
        sys.stderr.write(f"acequia-lakehouse prepare: {error}\n")
    return 2


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            serve("lakehouse", build, LakehouseSettings)
        case ["prepare"]:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cut short is not done
            sys.exit(prepare())
        case _:
            sys.exit("usage: python -m acequia_lakehouse [prepare]")
