from datetime import UTC, datetime, timedelta

import pytest

from acequia_cli.complaints import WrongUse
from acequia_cli.times import age, moment, span

NOW = datetime(2026, 11, 8, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1.5 D", 129_600), ("2w", 1_209_600)]
)
def test_a_span_is_a_number_with_its_unit(text: str, seconds: float):
    assert span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-2h", "2y", "h", "2h30m", "9" * 400])
def test_what_is_no_span_says_what_would_be(text: str):
    with pytest.raises(WrongUse):
        span(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:30", datetime(2026, 11, 1, 12, 30, tzinfo=UTC)),
        ("2026-11-01T12:30:00Z", datetime(2026, 11, 1, 12, 30, tzinfo=UTC)),
        ("2026-11-01T12:30+02:00", datetime(2026, 11, 1, 10, 30, tzinfo=UTC)),
        ("7d", datetime(2026, 11, 1, 12, 0, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_date_a_time_or_a_span_ago(text: str, at: datetime):
    assert moment(text, NOW) == at


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "1000000w", "2026"])
def test_what_is_no_moment_says_what_would_be(text: str):
    with pytest.raises(WrongUse, match="2026-11-01"):
        moment(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (97_200, "27 hours"),
        (172_800, "2 days"),
        (400 * 86_400, "400 days"),
    ],
)
def test_an_age_is_told_in_words(seconds: int, words: str):
    assert age((NOW - timedelta(seconds=seconds)).isoformat(), NOW) == words
