"""Whatever people write, and however: what can be read is read as it was meant, and every record is accounted for."""

import csv
import io
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acequia.datasets import load_registry
from acequia.errors import RejectedInput
from acequia_ingestor.csv_options import DATES, DECIMALS, ENCODINGS, SEPARATORS, as_text, read_csv_options
from acequia_ingestor.formats import people_csv
from acequia_ingestor.formats._people_records import Quotes
from acequia_ingestor.formats._people_values import read_numbers, read_times
from acequia_ingestor.parse import NoRows, parse_file

REGISTRY = load_registry()
EVENTS = REGISTRY["eventos"]
SEPARATOR = st.sampled_from([",", ";", "\t", "|"])
MOMENT = pl.Datetime("us", "UTC")
TEXTS = st.text(
    st.characters(codec="cp1252", exclude_categories=["Cc", "Zs"]) | st.sampled_from(' "\n;,|\t'), max_size=30
)


@settings(deadline=None)
@given(TEXTS, TEXTS, SEPARATOR, st.booleans())
def test_what_a_program_writes_as_csv_is_split_as_it_was_put_together(
    one: str, two: str, separator: str, quote_all: bool
) -> None:
    out = io.StringIO()
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    csv.writer(out, delimiter=separator, quoting=quoting, lineterminator="\n").writerow(["x", one, two, "y"])
    lines = out.getvalue().removesuffix("\n").split("\n")
    assert Quotes(separator).fields(lines) == (["x", one, two, "y"], len(lines))


NUMBERS = st.floats(-1e9, 1e9, allow_nan=False).map(lambda n: round(n, 3))


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=20), st.sampled_from(",."), st.sampled_from(["", "other", " ", "'"]))
def test_a_number_that_was_written_with_a_decimal_mark_and_groups_is_read_as_it_was(
    numbers: list[float], mark: str, group: str
) -> None:
    group = {"other": {",": ".", ".": ","}[mark]}.get(group, group)
    written = [f"{n:,.3f}".replace(",", "_").replace(".", mark).replace("_", group) for n in numbers]
    assert read_numbers(mark, pl.Float64())(pl.Series("n", written)).to_list() == numbers


SPELLED = ("%d/%m/%Y %H:%M", "%d-%m-%Y %I:%M %p", "%Y-%m-%d %H:%M", "%d.%m.%y %H:%M", "%Y/%m/%dT%H:%M:00Z")
MONTHS = ("enero", "feb.", "MARZO", "abr", "Mayo", "jun", "julio", "ago.", "septiembre", "oct", "Noviembre", "dic")


@settings(deadline=None)
@given(
    st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2069, 12, 31)), min_size=1, max_size=10),  # noqa: DTZ001
    st.sampled_from([*SPELLED, "named"]),
)
def test_a_moment_that_was_written_day_first_is_read_as_it_was(moments: list[datetime], form: str) -> None:
    whole = [at.replace(second=0, microsecond=0, tzinfo=UTC) for at in moments]
    written = [
        f"{at.day} de {MONTHS[at.month - 1]} de {at:%Y %H:%M}" if form == "named" else at.strftime(form) for at in whole
    ]
    assert read_times("dmy", "UTC", MOMENT)(pl.Series("t", written)).to_list() == whole


@settings(deadline=None)
@given(st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1)), st.integers(-12 * 60, 14 * 60))  # noqa: DTZ001
def test_an_offset_that_is_written_counts(moment: datetime, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    written = f"{moment:%Y-%m-%d %H:%M:%S} {sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    (read,) = read_times("dmy", "America/Mexico_City", MOMENT)(pl.Series("t", [written]))
    assert read == moment.replace(microsecond=0, tzinfo=UTC) - timedelta(minutes=minutes)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "encoding": st.sampled_from(sorted(ENCODINGS)),
            "separator": st.sampled_from(sorted(SEPARATORS)),
            "decimal": st.sampled_from(sorted(DECIMALS)),
            "dates": st.sampled_from(sorted(DATES)),
        },
    ).filter(bool)
)
def test_options_mean_the_same_in_each_of_their_spellings(options: dict[str, str]) -> None:
    meant = read_csv_options(",".join(f"{name}={value}" for name, value in options.items()))
    assert meant.keys() == options.keys()
    assert read_csv_options(as_text(meant)) == meant


LINES = st.lists(
    st.text(st.sampled_from('";,|\t#\r\u00a0 a1.ñ½/2025"\ufeff'), max_size=25)
    | st.sampled_from(['20/12/2025;Paro;"nota', 'x";"y', "Inicio;Tipo;Nota", '2/1/25;a;"b"', ";;", '"a";"b";"c"', ""]),
    max_size=40,
)


@pytest.mark.parametrize("block_bytes", [16, 4 * 2**20])
@settings(max_examples=150, deadline=None)
@given(LINES, st.sampled_from(["utf-8", "latin-1", "utf-16"]))
def test_each_line_is_in_one_record_or_skipped_whatever_it_holds(
    block_bytes: int, lines: list[str], encoding: str
) -> None:
    content = "\n".join(["Inicio;Tipo;Nota", *lines]).encode(encoding, "replace")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(people_csv, "BLOCK_BYTES", block_bytes)
        source = Path(folder, "source")
        source.write_bytes(content)
        try:
            parsed = parse_file(source, "x", EVENTS, "people_csv", Path(folder, "out"))
        except NoRows as nothing:
            assert nothing.rows_in == sum(nothing.rejected.values())
            return
        rows = pl.concat([pl.read_parquet(part.path) for part in parsed.parts])
        refused = (
            pl.read_parquet(parsed.rejected_rows)["_line"] if parsed.rejected_rows else pl.Series([], dtype=pl.Int64)
        )
        told = pl.concat([rows["_line"], refused]).to_list()
    assert parsed.rows_in == rows.height + sum(parsed.rejected.values())
    assert len(set(told)) == len(told)
    assert all(2 <= line <= len(content.decode(encoding).split("\n")) for line in told)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", b"Inicio;Tipo;Nota\n", b"\xff\xfe", b"\xef\xbb\xbfFecha,Tipo\n"]))
def test_any_bytes_are_read_or_refused(data: bytes, head: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        source.write_bytes(head + data)
        try:
            parsed = parse_file(source, "x", EVENTS, "people_csv", Path(folder, "out"))
        except RejectedInput as rejected:
            assert rejected.rule in {
                "empty",
                "missing_columns",
                "unreadable",
                "no_rows",
                "duplicate_columns",
                "truncated",
            }
            return
        assert parsed.rows_in == sum(p.rows for p in parsed.parts) + sum(parsed.rejected.values())
