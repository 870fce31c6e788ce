"""When a schedule comes due: in its own time zone, also on the days on which the clocks change."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acequia_reconciler.times import Times

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


def due(cron: str, timezone: str, first: str, *, days: float = 1) -> list[str]:
    """The times from the local midnight `first` on, as the clock on the wall there shows them."""
    times, zone = Times(cron, timezone), ZoneInfo(timezone)
    since = datetime.fromisoformat(first).replace(tzinfo=zone).astimezone(UTC) - MINUTE
    found = list(times.newest_first(since + days * DAY, since))[::-1]
    assert found == following(times, since, since + days * DAY)
    return [times.local(at).strftime("%m-%d %H:%M %Z") for at in found]


def following(times: Times, since: datetime, until: datetime) -> list[datetime]:
    found: list[datetime] = []
    at = times.after(since)
    while at is not None and at <= until:
        found.append(at)
        at = times.after(at)
    return found


def test_a_time_that_does_not_exist_comes_due_when_the_clock_is_past_the_gap() -> None:
    assert due("30 2 * * *", "Europe/Madrid", "2026-03-28", days=3) == [
        "03-28 02:30 CET",
        "03-29 03:00 CEST",
        "03-30 02:30 CEST",
    ]
    assert due("30 2 * * *", "America/New_York", "2026-03-07", days=3) == [
        "03-07 02:30 EST",
        "03-08 03:00 EDT",
        "03-09 02:30 EDT",
    ]


def test_two_times_that_do_not_exist_come_due_once() -> None:
    assert due("15,45 2 * * *", "Europe/Madrid", "2026-03-29") == ["03-29 03:00 CEST"]
    assert due("0 2,3 * * *", "America/New_York", "2026-03-08") == ["03-08 03:00 EDT"]


def test_a_time_that_comes_twice_comes_due_once() -> None:
    assert due("30 2 * * *", "Europe/Madrid", "2026-10-25") == ["10-25 02:30 CEST"]
    assert due("30 1 * * *", "America/New_York", "2026-11-01") == ["11-01 01:30 EDT"]


def test_a_time_that_came_once_is_not_due_again_while_the_hour_repeats() -> None:
    times = Times("30 2 * * *", "Europe/Madrid")
    again = datetime(2026, 10, 25, 2, 10, tzinfo=ZoneInfo("Europe/Madrid"), fold=1).astimezone(UTC)
    assert times.after(again) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert next(times.newest_first(again, again - DAY)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_what_comes_each_hour_comes_each_hour_also_when_the_clocks_change() -> None:
    spring = due("0 * * * *", "Europe/Madrid", "2026-03-29", days=4 / 24)
    assert spring == ["03-29 00:00 CET", "03-29 01:00 CET", "03-29 03:00 CEST", "03-29 04:00 CEST"]
    autumn = due("0 * * * *", "America/New_York", "2026-11-01", days=4 / 24)
    assert autumn == ["11-01 00:00 EDT", "11-01 01:00 EDT", "11-01 01:00 EST", "11-01 02:00 EST"]


def test_six_in_mexico_city_is_noon_in_utc_all_year_since_it_changes_its_clocks_no_more() -> None:
    times = Times("0 6 * * *", "America/Mexico_City")
    january, july = datetime(2026, 1, 10, tzinfo=UTC), datetime(2026, 7, 10, tzinfo=UTC)
    assert times.after(january) == january + timedelta(hours=12)
    assert times.after(july) == july + timedelta(hours=12)
    assert times.after(datetime(2022, 7, 10, tzinfo=UTC)) == datetime(2022, 7, 10, 11, tzinfo=UTC)


def test_the_last_of_february_comes_in_leap_years() -> None:
    assert due("0 0 29 2 *", "UTC", "2026-01-01", days=3000) == ["02-29 00:00 UTC", "02-29 00:00 UTC"]
    assert Times("0 0 29 2 *", "UTC").after(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)


def test_weekdays_go_by_name_or_number_from_sunday_on() -> None:
    week = [due(f"0 9 * * {day}", "UTC", "2026-11-16", days=7) for day in ("MON", "mon", "1")]
    assert week == [["11-16 09:00 UTC"]] * 3
    assert due("0 9 * * SUN", "UTC", "2026-11-16", days=7) == due("0 9 * * 0", "UTC", "2026-11-16", days=7)
    assert due("0 9 * * 7", "UTC", "2026-11-16", days=7) == ["11-22 09:00 UTC"]
    assert len(due("0 9 * * MON-FRI", "UTC", "2026-11-16", days=7)) == 5


def test_with_a_day_of_the_month_and_a_weekday_either_will_do() -> None:
    assert due("0 9 18 * MON", "UTC", "2026-11-16", days=7) == ["11-16 09:00 UTC", "11-18 09:00 UTC"]


@pytest.mark.parametrize(
    ("cron", "timezone", "told"),
    [
        ("0 25 * * *", "UTC", "'0 25 * * *' is no cron expression: bad hour"),
        ("0 6 * *", "UTC", "five fields are asked for"),
        ("0 0 6 * * *", "UTC", "five fields are asked for"),
        ("@daily", "UTC", "five fields are asked for"),
        ("0 6 * * MON#2/3", "UTC", "is no cron expression"),
        ("0 6 * * FUNDAY", "UTC", "bad day-of-week"),
        ("0 0 30 2 *", "UTC", "bad day-of-month"),
        ("0 6 * * *", "Mexico/Guadalajara", "'Mexico/Guadalajara' is no time zone"),
        ("0 6 * * *", "../etc/passwd", "is no time zone"),
        ("0 6 * * *", "", "is no time zone"),
    ],
)
def test_what_never_comes_due_is_refused_with_what_is_wrong(cron: str, timezone: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Times(cron, timezone)
    assert told in str(caught.value)


# against somebody who looks at the clock each minute

CHANGES = {
    "Europe/Madrid": ("2026-03-29", "2026-10-25"),
    "America/New_York": ("2026-03-08", "2026-11-01"),
    "America/Mexico_City": ("2022-04-03", "2022-10-30", "2026-04-05"),
    "Africa/Cairo": ("2026-04-24", "2026-10-30"),  # at midnight
    "UTC": ("2026-02-28",),
}


@dataclass(frozen=True)
class Field:
    text: str
    values: frozenset[int]

    @property
    def star(self) -> bool:
        return self.text.startswith("*")


def each(low: int, high: int, *steps: int) -> st.SearchStrategy[Field]:
    everything = range(low, high + 1)
    return st.sampled_from([1, *steps]).map(
        lambda n: Field("*" if n == 1 else f"*/{n}", frozenset(everything[::n])),
    )


def named(among: Sequence[int]) -> st.SearchStrategy[Field]:
    some = st.frozensets(st.sampled_from(among), min_size=1, max_size=3)
    return some.map(lambda values: Field(",".join(map(str, sorted(values))), values))


@dataclass(frozen=True)
class Cron:
    minute: Field
    hour: Field
    day: Field
    month: Field
    weekday: Field

    def __str__(self) -> str:
        return " ".join(f.text for f in (self.minute, self.hour, self.day, self.month, self.weekday))

    def shows(self, local: datetime) -> bool:
        """Whether a clock that shows `local` matches."""
        days = (local.day in self.day.values, local.isoweekday() % 7 in self.weekday.values)
        return (
            local.minute in self.minute.values
            and local.hour in self.hour.values
            and local.month in self.month.values
            and (all(days) if self.day.star or self.weekday.star else any(days))
        )

    def walked(self, zone: ZoneInfo, since: datetime, until: datetime) -> Iterator[datetime]:
        """The times in (since, until], found by looking at the clock each minute."""
        if self.minute.star or self.hour.star:
            at = since.replace(second=0, microsecond=0) + MINUTE
            while at <= until:
                if self.shows(at.astimezone(zone)):
                    yield at
                at += MINUTE
            return
        # each reading that a calendar has, at the first moment on which the clock shows it or has passed it
        reading = (since - DAY / 4).astimezone(zone).replace(tzinfo=None, second=0, microsecond=0)
        while reading <= (until + DAY / 4).astimezone(zone).replace(tzinfo=None):
            if self.shows(reading):
                shown = reading
                while (at := shown.replace(tzinfo=zone).astimezone(UTC)).astimezone(zone).replace(tzinfo=None) != shown:
                    shown += MINUTE
                if since < at <= until:
                    yield at
            reading += MINUTE


MINUTES, HOURS = each(0, 59, 2, 7, 15) | named(range(60)), each(0, 23, 2, 5) | named(range(4)) | named(range(24))
DAY_STAR, MONTH_STAR, WEEKDAY_STAR = each(1, 31), each(1, 12), each(0, 6)
DAILY = st.builds(Cron, MINUTES, HOURS, DAY_STAR, MONTH_STAR, WEEKDAY_STAR)
BY_DAY = st.builds(
    Cron,
    MINUTES,
    HOURS,
    DAY_STAR | each(1, 31, 2) | named((4, 5, 8, 24, 25, 29, 30)),
    MONTH_STAR | named((3, 4, 10, 11)),
    WEEKDAY_STAR | named(range(7)),
)
MOMENTS = st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days])


@settings(max_examples=100, deadline=None)
@given(DAILY | BY_DAY, MOMENTS, st.integers(-43_200, 43_200), st.integers(43_200, 100_000))
def test_around_each_change_of_the_clocks_it_is_due_when_a_look_each_minute_says_so(
    cron: Cron, moment: tuple[str, str], offset: int, seconds: int
) -> None:
    zone, day = moment
    since = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(seconds=offset)
    until = since + timedelta(seconds=seconds)
    times = Times(str(cron), zone)
    expected = sorted(set(cron.walked(ZoneInfo(zone), since, until)))
    assert following(times, since, until) == expected
    assert list(times.newest_first(until, since))[::-1] == expected
