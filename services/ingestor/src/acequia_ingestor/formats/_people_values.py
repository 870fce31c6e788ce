"""Numbers and dates as people write them, and what they tell of who wrote them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import polars as pl

from acequia_ingestor.formats._columns import convert

PIVOT = 70
"""A year of two digits: 00 to 69 are 2000 to 2069, 70 to 99 are 1970 to 1999 (as POSIX has it)."""

_SPACES = r"[ \x{a0}\x{2009}\x{202f}]"
_QUOTES = r"['\x{2019}]"
_EXPONENT = r"(?:[eE][+-]?[0-9]+)?"
_MONTHS: Mapping[str, int] = MappingProxyType(
    {
        name: number
        for number, names in enumerate(
            (
                "enero ene january jan",
                "febrero feb february",
                "marzo mar march",
                "abril abr april apr",
                "mayo may",
                "junio jun june",
                "julio jul july",
                "agosto ago august aug",
                "septiembre setiembre sep sept set september",
                "octubre oct october",
                "noviembre nov november",
                "diciembre dic december dec",
            ),
            start=1,
        )
        for name in names.split()
    }
)
_WEEKDAY = (
    r"^(?:lunes|martes|miercoles|jueves|viernes|sabado|domingo|lun|mar|mie|jue|vie|sab|dom|"
    r"monday|tuesday|wednesday|thursday|friday|saturday|sunday|mon|tue|wed|thu|fri|sat|sun)"
    # before a date that has its month: `mar 20, 2025` is a day in March
    r"\.?,?\s+([0-9]{1,2}[\s./-]*(?:de\s+)?(?:[a-z]|[0-9]{1,2}[/.-])|[0-9]{4}[/.-])"
)
_TIME = (
    r"(?:(?:t|,?\s+|\s*,\s*)(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"\s*(?P<half>[ap])?(?:\.?\s*m\.?)?\s*(?:h|hr|hrs|horas?)?\.?"
    r"\s*(?P<zone>z|utc|gmt|[+-][0-9]{2}:?[0-9]{2}|[+-][0-9]{2})?)?$"
)
_MIDNIGHT = r"(?i)(?:\s+|t)(?:0?0:00(?::00(?:[.,]0+)?)?|12:00(?::00)?\s*a\.?\s*m\.?)$"
"""What a program puts behind a day that it takes for a moment."""
_DE = r"(?:del?\s+)?"
_YEAR_FIRST = r"^(?P<year>[0-9]{4})[-/.](?P<month>[0-9]{1,2})[-/.](?P<day>[0-9]{1,2})" + _TIME
_YEAR_LAST = r"^(?P<a>[0-9]{1,2})[-/.](?P<b>[0-9]{1,2})[-/.](?P<c>[0-9]{4}|[0-9]{2})" + _TIME
_NAMED = (
    # `1º de enero` comes folded, as `1o`
    rf"^(?P<day>[0-9]{{1,2}})(?:\.?o\s)?[\s./-]*{_DE}(?P<name>[a-z]+)[\s./,-]*{_DE}(?P<year>[0-9]{{4}}|[0-9]{{2}})"
    + _TIME,
    rf"^(?P<name>[a-z]+)[\s.]*(?P<day>[0-9]{{1,2}})[\s,]+{_DE}(?P<year>[0-9]{{4}})" + _TIME,
    r"^(?P<year>[0-9]{4})[\s./-]*(?P<name>[a-z]+)[\s./-]*(?P<day>[0-9]{1,2})" + _TIME,
)
_PARTS = ("year", "month", "day", "hour", "minute", "second", "fraction", "half", "zone")


# numbers


def read_numbers(decimal: str, dtype: pl.DataType) -> Callable[[pl.Series], pl.Series]:
    """Reads texts as numbers with this decimal mark; the other mark, a space or an apostrophe may group digits by
    three. Null where a text is no such number: `12.5` is none where the mark is the comma."""
    mark, other = (",", r"\.") if decimal == "," else (r"\.", ",")
    plain = rf"^[+-]?(?:[0-9]+(?:{mark}[0-9]*)?|{mark}[0-9]+){_EXPONENT}$"
    groups = "|".join(rf"(?:{group}[0-9]{{3}})+" for group in (other, _SPACES, _QUOTES))
    grouped = rf"^[+-]?[1-9][0-9]{{0,2}}(?:{groups})(?:{mark}[0-9]*)?$"

    def read(texts: pl.Series) -> pl.Series:
        text = pl.col("t")
        without = text.str.replace_all(rf"{other}|{_SPACES}|{_QUOTES}", "")
        digits = (
            texts.str.replace("\N{MINUS SIGN}", "-", literal=True)
            .to_frame("t")
            .select(pl.when(text.str.contains(plain)).then(text).when(text.str.contains(grouped)).then(without))["t"]
        )
        if decimal == ",":
            digits = digits.str.replace(",", ".", literal=True)
        numbers = digits.cast(dtype, strict=False)
        if dtype.is_integer() and numbers.null_count() > digits.null_count():
            numbers = numbers.zip_with(numbers.is_not_null(), convert(digits, dtype))
        return numbers.alias(texts.name)

    return read


def marks_in(texts: pl.Series) -> int:
    """How many of these texts hold a mark of which one has to know what it means."""
    return int(texts.str.contains(r"^[+-]?[0-9].*[.,]").sum())


def decimals_told(texts: pl.Series) -> Mapping[str, int]:
    """How many of these texts can only be numbers with this decimal mark."""

    def only(mark: str, other: str) -> pl.Expr:
        groups = rf"(?:{other}|{_SPACES}|{_QUOTES})[0-9]{{3}}"
        both = rf"^[+-]?[1-9][0-9]{{0,2}}(?:{groups})+{mark}[0-9]+$"
        several = rf"^[+-]?[1-9][0-9]{{0,2}}(?:{other}[0-9]{{3}}){{2,}}$"
        one = rf"^[+-]?[0-9]*{mark}[0-9]+{_EXPONENT}$"
        may_group = rf"^[+-]?[1-9][0-9]{{0,2}}{mark}[0-9]{{3}}$"
        text = pl.col("t")
        return (
            text.str.contains(both)
            | text.str.contains(several)
            | (text.str.contains(one) & ~text.str.contains(may_group))
        )

    counts = texts.to_frame("t").select(only(",", r"\.").sum().alias("comma"), only(r"\.", ",").sum().alias("point"))
    comma, point = counts.row(0)
    return {",": comma, ".": point}


# dates


def read_times(order: str, zone: str, dtype: pl.DataType) -> Callable[[pl.Series], pl.Series]:
    """Reads texts as moments (UTC, microseconds) or, where `dtype` is Date, as the day that is written there.

    `order`: of day, month and year where all three are numbers and the year does not come first with four digits.
    `zone`: whose time it is where no offset is written; of the hour that comes twice, the first.
    """

    def read(texts: pl.Series) -> pl.Series:
        parts = _parts(texts, order)
        hour = pl.col("hour").cast(pl.Int64)
        half_day = pl.col("half")
        in_half = pl.when(hour.is_between(1, 12)).then(hour % 12 + pl.when(half_day == "p").then(12).otherwise(0))
        year = pl.col("year").cast(pl.Int64)
        century = pl.when(year < PIVOT).then(2000).otherwise(1900)
        said = parts.with_columns(
            year=pl.when(pl.col("year").str.len_bytes() == 2).then(year + century).otherwise(year),
            hour=pl.when(half_day.is_null()).then(hour).otherwise(in_half),
            timeless=pl.col("hour").is_null(),
        ).select(
            pl.when(pl.col("timeless") | pl.col("hour").is_not_null())
            .then(
                pl.format(
                    "{}-{}-{} {}:{}:{}.{}",
                    pl.col("year").cast(pl.String).str.zfill(4),
                    pl.col("month").str.zfill(2),
                    pl.col("day").str.zfill(2),
                    pl.col("hour").cast(pl.String).str.zfill(2).fill_null("00"),
                    pl.col("minute").fill_null("00"),
                    pl.col("second").fill_null("00"),
                    pl.col("fraction").fill_null("0"),
                )
            )
            .alias("at"),
            pl.col("zone"),
        )
        # strict=False: the 30th of February is null
        at = said.with_columns(pl.col("at").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False))
        if dtype == pl.Date:
            return at["at"].cast(pl.Date).alias(texts.name)
        here = (
            pl.col("at")
            .dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
            .dt.convert_time_zone("UTC")
        )
        there = pl.col("at").dt.replace_time_zone("UTC") - pl.duration(minutes=_offset(pl.col("zone")))
        return at.select(pl.when(pl.col("zone").is_null()).then(here).otherwise(there).alias("at"))["at"].alias(
            texts.name
        )

    return read


def with_clock(day: str, clock: str, nulls: Sequence[str]) -> pl.Expr:
    """The column of texts `day`, with the time of day that `clock` has where it says none itself."""
    bare = pl.col(day).str.strip_chars().str.replace(_MIDNIGHT, "")
    time = pl.col(clock).str.strip_chars()
    joined = pl.format("{} {}", bare, time)
    lacking = ~time.is_in(nulls) & ~bare.is_in(nulls) & ~bare.str.contains(":", literal=True)
    return pl.when(lacking).then(joined).otherwise(day)


def orders_told(texts: pl.Series) -> tuple[Mapping[str, int], int]:
    """How many of these texts can only be dates in this order of day and month; how many have an order at all."""
    parts = _fold(texts).str.replace(_WEEKDAY, "${1}").str.extract_groups(_YEAR_LAST).struct.unnest()
    a, b = pl.col("a").cast(pl.Int64), pl.col("b").cast(pl.Int64)
    dmy, mdy, any_ = parts.select(
        ((a > 12) & (a <= 31) & (b <= 12)).sum().alias("dmy"),
        ((b > 12) & (b <= 31) & (a <= 12)).sum().alias("mdy"),
        a.is_not_null().sum().alias("any"),
    ).row(0)
    return {"dmy": dmy, "mdy": mdy}, any_


def _fold(texts: pl.Series) -> pl.Series:
    """Lower case, without accents, with plain spaces."""
    if (texts.str.len_bytes() != texts.str.len_chars()).any():
        texts = texts.str.normalize("NFKD").str.replace_all(r"\p{M}", "")
    return texts.str.to_lowercase().str.strip_chars()


def _parts(texts: pl.Series, order: str) -> pl.DataFrame:
    """The columns _PARTS, as texts: null where a text is no date, or does not say that part."""
    folded = _fold(texts)
    found = _groups(folded, _YEAR_FIRST)
    if _all_read(found, folded):
        return found
    found = _either(found, _ordered(folded.str.extract_groups(_YEAR_LAST).struct.unnest(), order))
    if _all_read(found, folded):
        return found
    folded = folded.str.replace(_WEEKDAY, "${1}")
    for pattern in (_YEAR_FIRST, *_NAMED):
        found = _either(found, _groups(folded, pattern))
    return _either(found, _ordered(folded.str.extract_groups(_YEAR_LAST).struct.unnest(), order))


def _all_read(found: pl.DataFrame, texts: pl.Series) -> bool:
    return found["year"].null_count() == texts.null_count()


def _groups(texts: pl.Series, pattern: str) -> pl.DataFrame:
    groups = texts.str.extract_groups(pattern).struct.unnest()
    if "name" in groups.columns:
        month = pl.col("name").replace_strict(_MONTHS, default=None, return_dtype=pl.Int64).cast(pl.String)
        # a word that is no month makes no date
        groups = groups.with_columns(month=month).with_columns(year=pl.when(month.is_not_null()).then("year"))
    return groups.select(_PARTS)


def _ordered(groups: pl.DataFrame, order: str) -> pl.DataFrame:
    """Numbers in the place of day, month and year. `ymd`: only a year of two digits can stand in front."""
    short = pl.col("c").str.len_bytes() == 2
    where = {"dmy": ("c", "b", "a"), "mdy": ("c", "a", "b"), "ymd": ("a", "b", "c")}[order]
    year, month, day = (pl.col(name) for name in where)
    if order == "ymd":
        year = pl.when(short).then(year)
    return groups.with_columns(year=year, month=month, day=day).select(_PARTS)


def _either(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """The rows of `one`, and those of `other` where `one` has no date."""
    known = one["year"].is_not_null()
    return one.select(pl.when(known).then(pl.col(name)).otherwise(other[name]).alias(name) for name in _PARTS)


def _offset(zone: pl.Expr) -> pl.Expr:
    """Minutes that a written offset is ahead of UTC."""
    digits = zone.str.replace(":", "", literal=True)
    minutes = digits.str.slice(1, 2).cast(pl.Int64, strict=False) * 60
    minutes = minutes + digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
    signed = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes)
    return pl.when(zone.is_in(["z", "utc", "gmt"])).then(0).otherwise(signed)
