"""How many schedules are tried, and where.

ACEQUIA_TRIED_SCHEDULES=5000 tries so many in all (200 by default), ACEQUIA_TRIED_SCHEDULE=1234 only that one, with
each story.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCHEDULES = int(os.environ.get("ACEQUIA_TRIED_SCHEDULES") or 200)
ONLY = os.environ.get("ACEQUIA_TRIED_SCHEDULE")
AT_ONCE = 25
"""Schedules of one test."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`seeds` of a test: its share of all schedules (`@share(percent)`), in handfuls."""
    if "seeds" not in metafunc.fixturenames:
        return
    if ONLY:
        metafunc.parametrize("seeds", [[int(ONLY)]], ids=[ONLY])
        return
    count = max(1, SCHEDULES * metafunc.function.percent // 100)
    handfuls = [list(range(begin, min(begin + AT_ONCE, count))) for begin in range(0, count, AT_ONCE)]
    metafunc.parametrize("seeds", handfuls, ids=[f"{h[0]}-{h[-1]}" for h in handfuls])


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where the machine has such a place: what is tried here is the order of things, not the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="acequia-schedules-", dir=memory if os.access(memory, os.W_OK) else None
    ) as name:
        yield Path(name)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Failures are made on purpose, by the thousand."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
