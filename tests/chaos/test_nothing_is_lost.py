"""Everything goes wrong at once, for minutes: at the end each accepted thing was done once, and nothing is left behind.

`make chaos` is the long form (MINUTES=, SEED=); `make test` runs a short one. docs/chaos.md says what is done.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chaos.place import Place
from chaos.storm import Storm, Summary

MINUTES = os.environ.get("ACEQUIA_CHAOS_MINUTES")
"""Set: the long form, which fetches the servers where they are not here."""
SEED = int(os.environ.get("ACEQUIA_CHAOS_SEED") or secrets.randbelow(10**6))
SHORT_SECONDS, SHORT_SOURCES, SHORT_PAUSE = 75.0, 90, 2.5
SOURCES_A_MINUTE, LONG_PAUSE = 56, 3.6


pytestmark = [pytest.mark.timeout(3600)] if MINUTES else [pytest.mark.timeout(900), pytest.mark.stack]


def test_whatever_goes_wrong_each_accepted_thing_is_done_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if MINUTES is None and "STACK_DIR" not in os.environ:
        pytest.skip("stops and kills servers, which it can where they run natively: `make chaos`")
    summary = asyncio.run(_storm(tmp_path))
    record_property("chaos", summary.lines())
    shown = "\n".join([*summary.lines(), *summary.failures[:50]])
    assert not summary.failures, f"{len(summary.failures)} failures, logs in {tmp_path}\n{shown}"


async def _storm(folder: Path) -> Summary:
    def say(line: str) -> None:
        sys.stderr.write(f"chaos {datetime.now(UTC):%H:%M:%S} {line}\n")

    place = Place(folder, SEED)
    await place.open()
    try:
        await asyncio.to_thread(place.start_servers)
        storm = Storm(place, SEED, say)
        if MINUTES is None:
            return await storm.run(SHORT_SECONDS, SHORT_SOURCES, SHORT_PAUSE)
        minutes = float(MINUTES)
        return await storm.run(60 * minutes, round(SOURCES_A_MINUTE * minutes), LONG_PAUSE)
    finally:
        await asyncio.to_thread(place.take_down)
        await place.close()
