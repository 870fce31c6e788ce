"""Schedules: when each comes due next, what became of its last run; and fired by hand."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from acequia_cli.client import Api
from acequia_cli.commands import Output, asked_anywhere, connected, see_through
from acequia_cli.complaints import DONE, CommandFailed, ServerAway
from acequia_cli.connection import Where
from acequia_cli.follow import Watched
from acequia_cli.progress import count
from acequia_cli.summary import state_text
from acequia_cli.times import age

ONLY_WITH_UP = "Nothing fires here by itself now: schedules are fired while `acequia up` serves this folder."


@dataclass(frozen=True, slots=True)
class ListSchedules:
    where: Where

    async def run(self, output: Output) -> int:
        async with asked_anywhere(self.where) as connection:
            found = await connection.api.schedules()
            states = await asyncio.gather(*(_state(connection.api, schedule["last"]) for schedule in found))
        for schedule, state in zip(found, states, strict=True):
            if schedule["last"]:
                schedule["last"]["state"] = state
        output.document({"schedules": found})
        if output.as_json:
            return DONE
        if not found:
            output.remark("No dataset has a schedule.")
        now = datetime.now(UTC)
        for schedule in found:
            for line in _told(schedule, now):
                output.console.print(line, soft_wrap=True)
        if connection.in_process and any(schedule["active"] for schedule in found):
            output.remark(ONLY_WITH_UP)
        return DONE


async def _state(api: Api, last: Mapping[str, Any] | None) -> str | None:
    """How far the last run is; None where nobody can say just now."""
    if last is None:
        return None
    try:
        return str((await api.run(last["run_id"]))["state"])
    except (CommandFailed, ServerAway):
        return None


def _told(schedule: Mapping[str, Any], now: datetime) -> Iterator[Text]:
    head = Text(schedule["name"], "bold")
    head.append(f"  {schedule['dataset']}  {schedule['cron']}  {schedule['timezone']}", "not bold")
    yield head
    if coming := schedule["next"]:
        yield Text(f"  next     {_both(coming)}, in {_until(coming['due'], now)}")
    else:
        yield Text("  next     never: ACEQUIA_SCHEDULES does not name it", "dim")
    if last := schedule["last"]:
        line = Text(f"  last     {_both(last)}: ")
        line.append_text(state_text(last["state"]) if last["state"] else Text("state unknown", "dim"))
        line.append(f", run {last['run_id']}")
        yield line
    if skipped := schedule["skipped"]:
        times = "1 missed time" if skipped == 1 else f"{count(skipped)} missed times"
        yield Text(f"  skipped  {times}, the latest {_utc(schedule['skipped_last'])} UTC", "yellow")


def _both(time: Mapping[str, Any]) -> str:
    """`2026-11-22 06:00 -06:00 (12:00 UTC)`: as the clock there shows it, and in UTC, with its date if another."""
    local, utc = datetime.fromisoformat(time["local"]), datetime.fromisoformat(time["due"]).astimezone(UTC)
    if not local.utcoffset():
        return f"{utc:%Y-%m-%d %H:%M} UTC"
    shown = f"{utc:%H:%M}" if utc.date() == local.date() else f"{utc:%Y-%m-%d %H:%M}"
    return f"{local:%Y-%m-%d %H:%M} {local.isoformat()[-6:]} ({shown} UTC)"


def _utc(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%Y-%m-%d %H:%M}"


def _until(moment: str, now: datetime) -> str:
    return age(now, datetime.fromisoformat(moment))


@dataclass(frozen=True, slots=True)
class FireSchedule:
    """Start a run of a schedule now, whatever its times say."""

    where: Where
    name: str
    wait: bool = True
    timeout: float | None = None

    async def run(self, output: Output) -> int:
        async with connected(self.where, output) as connection:
            watched: Sequence[Watched] = [Watched("", f"schedule {self.name}")]
            watched[0].run_id = await connection.api.fire_schedule(self.name)
            return await see_through(watched, connection, output, wait=self.wait, at_most=self.timeout)
