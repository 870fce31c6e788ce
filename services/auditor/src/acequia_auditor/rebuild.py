"""Fill the audit database from the store, where each commit object carries its record."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from acequia.datasets import Registry
from acequia.layers import Buckets
from acequia.ports import ObjectStore
from acequia_auditor.database import Database

Progress = Callable[[str, int], None]
"""Called with what is being listed and how many objects of it were seen."""


@dataclass(slots=True)
class Counts:
    """What a rebuild found. `stored` are records that the database lacked."""

    seen: int = 0
    records: int = 0
    stored: int = 0
    dead_letters: int = 0
    unreadable: int = 0


async def rebuild(
    store: ObjectStore,
    database: Database,
    buckets: Buckets,
    registry: Registry,
    *,
    since: datetime | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Store every record that a commit object carries and the database lacks. Idempotent; memory is bounded.

    `since`: only objects modified since then, in date folders from that day on. Failed attempts, operators' actions
    and check results are nowhere in the store: they need a database backup.
    """
    raise NotImplementedError


async def catch_up(
    store: ObjectStore, database: Database, buckets: Buckets, registry: Registry, *, window: timedelta
) -> Counts:
    """The same over what was written within `window` from now: what a lost audit message left out."""
    raise NotImplementedError
