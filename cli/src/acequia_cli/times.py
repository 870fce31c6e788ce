"""Moments and spans as people write and read them."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from acequia_cli.complaints import WrongUse

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_WORDS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def span(text: str) -> timedelta:
    """`90` or `90s`, `15m`, `2h`, `7d`, `2w`. WrongUse where it is none."""
    if (match := _SPAN.fullmatch(text.strip().lower())) is None:
        raise WrongUse(f"{text!r} is no length of time: try 90s, 15m, 2h or 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError as error:
        raise WrongUse(f"{text!r} is too long") from error


def moment(text: str, now: datetime) -> datetime:
    """A date, a date with a time (UTC where nothing else is said), or a span before now. WrongUse where it is none."""
    with suppress(ValueError):  # it may be a span
        at = datetime.fromisoformat(text.strip())
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    try:
        if text.strip().isdecimal():  # a year, or what unit?
            raise WrongUse(text)
        return now - span(text)
    except (WrongUse, OverflowError) as error:
        raise WrongUse(f"{text!r} is no time: try 2026-11-01, 2026-11-01T12:30Z, or 7d for seven days ago") from error


def age(since: str | datetime, now: datetime) -> str:
    """In words, in the largest unit of which two have gone: `90 seconds`, `27 hours`, `2 days`."""
    at = datetime.fromisoformat(since) if isinstance(since, str) else since
    gone = max(0, int((now - at).total_seconds()))
    word, length = next(((w, n) for w, n in _WORDS if gone >= 2 * n), _WORDS[-1])
    number = gone // length
    return f"{number:,} {word}{'' if number == 1 else 's'}"
