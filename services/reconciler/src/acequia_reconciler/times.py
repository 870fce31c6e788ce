"""When a cron expression comes due, in a time zone.

Five fields, as Debian's cron reads them: where either day field begins with a star both have to match, else one of
them. `L`, `LW` and `MON#2` are known too. As there, the fields say what a change of the clocks does. Where minute and
hour are named, a time that does not exist comes due as soon as the clock is past the gap, and one that exists twice
comes due once, the first time. Where either begins with a star, each time that the clock shows comes due.
Zones that move their clocks by half an hour (Lord Howe Island) are not exact on those two days.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

FIELDS = 5
LONGEST_CHANGE = timedelta(hours=3)
"""Clocks are set back by no more: where the local time repeats, an earlier one may be that of a later moment."""


class Times:
    """Moments are UTC, those that are given back are whole minutes. ValueError where either text is none, or no time
    ever comes."""

    def __init__(self, cron: str, timezone: str) -> None:
        try:
            self._zone = ZoneInfo(timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{timezone!r} is no time zone (an IANA name, as America/Mexico_City)") from error
        self._cron = cron
        try:
            if len(cron.split()) != FIELDS:
                raise CronSimError("five fields are asked for: minute, hour, day, month, weekday")
            next(self._from(datetime.now(UTC)))
        except (CronSimError, AssertionError, TypeError) as error:  # the latter two for `MON#2/3` and its like
            raise ValueError(f"{cron!r} is no cron expression: {str(error).lower() or 'bad field'}") from error
        except StopIteration as error:
            raise ValueError(f"{cron!r} never comes due") from error

    def local(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone)

    def after(self, moment: datetime) -> datetime | None:
        """The first time after `moment`; None where none comes in fifty years."""
        return next((at for at in self._from(moment) if at > moment), None)

    def newest_first(self, until: datetime, since: datetime) -> Iterator[datetime]:
        """The times in (since, until], the latest first."""
        last = until + timedelta(microseconds=1)
        for local in CronSim(self._cron, self.local(until + LONGEST_CHANGE), reverse=True):
            at = local.astimezone(UTC)
            if at <= since:
                return
            if at < last:
                yield at
                last = at

    def _from(self, moment: datetime) -> Iterator[datetime]:
        """The times from about `moment` on: where a local time repeats, some before it."""
        return (local.astimezone(UTC) for local in CronSim(self._cron, self.local(moment)))
