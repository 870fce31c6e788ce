"""CSV as people make it: what the format finds out, what it can be told, what it does with what is broken."""

import codecs
import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from acequia.datasets import Dataset, load_registry
from acequia.errors import RejectedInput
from acequia_ingestor.csv_options import as_text, read_csv_options
from acequia_ingestor.formats import Reading, people_csv
from acequia_ingestor.formats._people_records import MAX_RECORD_LINES
from acequia_ingestor.parse import NoRows, ParseOptions, parse_file, survey_file, told_by_name

REGISTRY = load_registry()
SENSORS, PUMPS, EVENTS = REGISTRY["sensor_data"], REGISTRY["equipos"], REGISTRY["eventos"]


@dataclass(frozen=True)
class Read:
    rows: pl.DataFrame
    rejected: dict[str, int]
    refused: pl.DataFrame
    skipped: dict[str, int]
    reading: Reading

    def column(self, name: str) -> list[Any]:
        return self.rows[name].to_list()


People = Callable[..., Read]


@pytest.fixture
def people(tmp_path: Path) -> People:
    numbers = count()

    def read(content: str | bytes, dataset: Dataset = SENSORS, asked: str | None = None, name: str = "") -> Read:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        source = folder / "source"
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
        reading = survey_file(source, dataset, "people_csv", asked, folder / "unpacked")
        parsed = parse_file(source, name, dataset, None, folder / "out", reading=reading)
        rows = pl.concat([pl.read_parquet(part.path) for part in parsed.parts])
        refused = pl.read_parquet(parsed.rejected_rows) if parsed.rejected_rows else pl.DataFrame()
        assert parsed.format == "people_csv"
        assert parsed.rows_in == rows.height + refused.height == rows.height + sum(parsed.rejected.values())
        assert parsed.reading is not None
        return Read(rows, dict(parsed.rejected), refused, dict(parsed.lines_skipped), parsed.reading)

    return read


def sensors(*lines: str, header: str = "Fecha;Corriente (A);Frecuencia (Hz)") -> str:
    return "\n".join([header, *lines]) + "\n"


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


# encodings

TEXT = "Inicio;Categoría;Comentario\n20/12/2025;Falla;Tubería de ½ año\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8"),
        (TEXT.encode("latin-1"), "windows-1252"),
        (TEXT.replace("½", "“media”").encode("cp1252"), "windows-1252"),
        (TEXT.encode("utf-16"), "utf-16"),
        (TEXT.replace("\n", "\r\n").encode("utf-16-be").join((codecs.BOM_UTF16_BE, b"")), "utf-16"),
        (gzip.compress(TEXT.encode("latin-1")), "windows-1252"),
    ],
)
def test_text_in_each_usual_encoding_reads_the_same(people: People, content: bytes, encoding: str) -> None:
    read = people(content, EVENTS)
    assert read.reading.options["encoding"] == encoding
    assert read.reading.told_by["encoding"] == "content"
    assert read.column("category") == ["falla"]
    assert read.column("comment") in (["Tubería de ½ año"], ["Tubería de “media” año"])


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_lines_may_end_with_a_carriage_return_alone(people: People, encoding: str) -> None:
    text = TEXT.replace("½", "“media”") + "21/12/2025;Falla;\n"
    read = people(text.replace("\n", "\r").encode(encoding), EVENTS)
    assert read.column("comment") == ["Tubería de “media” año", None]
    assert read.column("_line") == [2, 3]


def test_the_encoding_of_lines_that_end_with_a_carriage_return_is_told_however_many_they_are(people: People) -> None:
    line = "20/12/2025;Falla;ñandú\r"
    many = line * (3 * 2**20 // len(line.encode()))
    assert people(f"Inicio;Categoría;Comentario\r{many}".encode(), EVENTS).reading.options["encoding"] == "utf-8"


def test_a_letter_far_behind_the_beginning_tells_the_encoding(people: People) -> None:
    many = "".join(f"{n % 28 + 1:02d}/01/2025;Falla;nada\n" for n in range(200_000))
    content = f"Inicio;Tipo;Comentario\n{many}01/01/2025;Falla;mañana\n".encode("latin-1")
    assert people(content, EVENTS).column("comment")[-1] == "mañana"


def test_in_a_utf8_file_a_line_that_is_none_is_rejected_alone(people: People) -> None:
    content = "Inicio;Tipo;Nota\n20/12/2025;a;ñ\n20/12/2025;b;á\n".encode() + "20/12/2025;c;ñ\n".encode("latin-1")
    read = people(content, EVENTS)
    assert read.column("comment") == ["ñ", "á"]
    assert read.rejected == {"not_utf8": 1}
    assert read.refused["_line"].to_list() == [4]


def test_bytes_that_windows_1252_does_not_have_stop_nothing(people: People) -> None:
    assert people(b"Inicio;Tipo;Nota\n20/12/2025;a;\x81\xf1\n", EVENTS, "encoding=latin-1").column("comment") == [
        "\x81ñ"
    ]


# separators, headers, quotes


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_header_tells_the_separator(people: People, separator: str) -> None:
    text = sensors("2025-12-20 10:00;45.5;60").replace(";", separator)
    read = people(text)
    assert read.column("motor_current_a") == [45.5]
    assert read.reading.options["separator"] == ("tab" if separator == "\t" else separator)


@pytest.mark.parametrize(
    "header",
    [
        "FECHA Y HORA;corriente del motor;Frecuencia (Hz)",
        '"Fecha / Hora";"Corriente\n(A)";"Frecuencia\r\n(Hz)"',
        "fecha_hora;CORRIENTE_A;frecuencia",
        "timestamp;motor_current_a;frequency_hz",
        "Fecha;Corriente (A);Frecuéncia  ( hz )",
    ],
)
def test_columns_are_known_by_any_of_their_names(people: People, header: str) -> None:
    read = people(sensors("2025-12-20 10:00;45.5;60", header=header))
    assert (read.column("motor_current_a"), read.column("frequency_hz")) == ([45.5], [60.0])
    assert read.column("_line") == [header.count("\n") + 2]


def test_a_unit_that_is_not_ours_is_not_taken_for_ours(people: People) -> None:
    header = "Fecha;Corriente (A);Frecuencia (Hz);Presión de succión (kg/cm2)"
    read = people(sensors("2025-12-20 10:00;45.5;60;99", header=header))
    assert read.column("intake_pressure_psi") == [None]
    assert list(read.reading.ignored) == ["Presión de succión (kg/cm2)"]


def test_what_stands_above_the_header_is_skipped_and_counted(people: People) -> None:
    above = "Reporte del pozo;;\n\n# hecho a mano\nGenerado: 20/12/2025;;\n"
    read = people(above + sensors("2025-12-20;45.5;60"))
    assert read.skipped == {"title": 2, "blank": 1, "comment": 1, "header": 1}
    assert read.column("_line") == [6]


def test_excels_hint_at_the_separator_is_understood(people: People) -> None:
    read = people("sep=;\n" + sensors("2025-12-20;45,5;60"))
    assert read.column("motor_current_a") == [45.5]
    assert read.skipped == {"title": 1, "header": 1}


def test_separators_at_the_end_of_lines_mean_nothing(people: People) -> None:
    header = "Fecha;Corriente (A);Frecuencia (Hz);;;"
    read = people(
        sensors("2025-12-20;1;2;;;", "2025-12-20;1;2", "2025-12-20;1;;;", "2025-12-20;1;2;;;x", header=header)
    )
    assert read.column("frequency_hz") == [2.0, 2.0, None]
    assert read.rejected == {"ragged_line": 1}


def test_lines_of_separators_only_comments_and_a_header_again_are_no_records(people: People) -> None:
    again = "\ufeffFecha;Corriente (A);Frecuencia (Hz)"
    read = people(sensors("2025-12-20;1;2", ";;", ' "";; ', "", "# fin", again, "2025-12-21;1;2"))
    assert read.rows.height == 2
    assert read.skipped == {"header": 2, "blank": 3, "comment": 1}


def test_a_quoted_field_holds_separators_line_breaks_and_quotes_and_its_row_the_line_it_begins_at(
    people: People,
) -> None:
    text = (
        "Inicio;Tipo;Comentario\r\n"
        '20/12/2025;Paro;"uno; dos"\r\n'
        '21/12/2025;Paro;"primera\r\n\r\n# tercera ""entre comillas"""\r\n'
        '"22/12/2025";"Paro";"simple"\r\n'
    )
    read = people(text, EVENTS)
    assert read.column("comment") == ["uno; dos", 'primera\n\n# tercera "entre comillas"', "simple"]
    assert read.column("_line") == [2, 3, 6]
    assert read.skipped == {"header": 1}


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('TP 3 1/2" EUE', 'TP 3 1/2" EUE'),
        ('"TP 3 1/2" EUE"', 'TP 3 1/2" EUE'),
        ('"dijo ""no"""', 'dijo "no"'),
        ('""', None),
    ],
)
def test_a_quote_that_is_an_inch_is_text(people: People, cell: str, text: str | None) -> None:
    read = people(f"Inicio;Tipo;Comentario;Responsable\n20/12/2025;Paro;{cell};Turno A\n", EVENTS)
    assert read.column("comment") == [text]
    assert read.column("reported_by") == ["Turno A"]


def test_a_quote_that_nobody_closed_costs_its_own_line_only(people: People) -> None:
    after = [f"{n % 28 + 1}/12/2025;Paro;nota {n};" for n in range(3 * MAX_RECORD_LINES)]
    after[7] = '8/12/2025;Paro;"cerrada; aquí";A'
    text = "\n".join(["Inicio;Tipo;Comentario;Responsable", '20/12/2025;Paro;"abierta;A', *after, '1/1/2025;Paro;"fin'])
    read = people(text, EVENTS)
    assert read.rows.height == len(after)
    assert read.rejected == {"open_quote": 2}
    assert read.refused["_line"].to_list() == [2, len(after) + 3]
    assert read.column("comment")[7] == "cerrada; aquí"


def test_lines_are_not_swallowed_by_a_quote_that_another_line_seems_to_close(people: People) -> None:
    text = 'Inicio;Tipo;Nota\n1/12/2025;a;"abierta\n2/12/2025;b;x\n3/12/2025;"c";y\n4/12/2025;d;z"\n'
    read = people(text, EVENTS)
    assert read.column("category") == ["b", "c", "d"]
    assert read.rejected == {"open_quote": 1}


def test_a_record_over_the_border_of_two_blocks_is_one(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'{n % 28 + 1}/12/2025;Paro;"a{n}\nb{n};\nc{n}"' for n in range(50)]
    text = "Inicio;Tipo;Comentario\n" + "\n".join(lines) + "\n"
    whole = people(text, EVENTS)
    for size in (7, 40, 61, 200):
        monkeypatch.setattr(people_csv, "BLOCK_BYTES", size)
        for content in (text, text.encode("utf-16")):
            cut = people(content, EVENTS)
            assert cut.rows.equals(whole.rows)
    assert whole.column("comment")[49] == "a49\nb49;\nc49"
    assert whole.column("_line")[49] == 2 + 3 * 49


# numbers


@pytest.mark.parametrize(
    ("telling", "cell", "number"),
    [
        ("1,5", "1.234,75", 1234.75),
        ("1.5", "1,234.75", 1234.75),
        ("1,5", "1 234,75", 1234.75),
        ("1,5", "1\u00a0234,75", 1234.75),
        ("1,5", "1'234,75", 1234.75),
        ("1,5", "1.234", 1234.0),
        ("1.5", "1.234", 1.234),
        ("1.5", "1,234", 1234.0),
        ("1,5", "1.234.567", 1234567.0),
        ("1,5", "1,2E+03", 1200.0),
        ("1,5", "\N{MINUS SIGN}3,5", -3.5),
        ("1,5", ",5", 0.5),
        ("1,5", "+12,", 12.0),
    ],
)
def test_numbers_are_read_by_the_decimal_mark_that_the_file_tells(
    people: People, telling: str, cell: str, number: float
) -> None:
    read = people(sensors(f"2025-12-20;{telling};60", f"2025-12-20;{cell};60"))
    assert read.column("motor_current_a") == [1.5, number]
    assert read.reading.told_by["decimal"] == "content"


@pytest.mark.parametrize("cell", ["12.5", "1.2.3", "1.23,4", "12,5,5", "doce", "12 psi", "inf", "0x10", "1.0000"])
def test_a_cell_that_is_no_such_number_is_rejected_with_line_rule_and_reason(people: People, cell: str) -> None:
    read = people(sensors("2025-12-20;1,5;60", f"2025-12-20;{cell};60"))
    assert read.rejected == {"unparsable_motor_current_a": 1}
    (row,) = read.refused.iter_rows(named=True)
    assert row["_line"] == 3
    assert repr(cell) in row["reason"]
    assert "Corriente (A)" in row["reason"]


@pytest.mark.parametrize(
    ("separator", "cell", "number", "told_by"),
    [(";", "1,234", 1.234, "default"), ("\t", "1,234", 1234.0, "default"), ("|", "12", 12.0, "unused")],
)
def test_a_file_that_does_not_tell_its_decimal_mark_is_read_by_the_documented_default(
    people: People, separator: str, cell: str, number: float, told_by: str
) -> None:
    read = people(sensors(f"2025-12-20;{cell};60").replace(";", separator))
    assert read.column("motor_current_a") == [number]
    assert read.reading.told_by["decimal"] == told_by


def test_whole_numbers_may_be_grouped_or_have_a_zero_fraction(people: People) -> None:
    text = "Modelo de bomba;Fecha de arranque;Etapas;Días;Potencia\nP;20/12/2025;1.024;12,0;1,5\nP;20/12/2025;1,5;1;1\n"
    read = people(text, PUMPS)
    assert (read.column("pump_stages"), read.column("run_days")) == ([1024], [12])
    assert read.rejected == {"unparsable_pump_stages": 1}


# dates

DATES = [
    ("2025-12-20", at(2025, 12, 20)),
    ("2025/12/20 7:05", at(2025, 12, 20, 7, 5)),
    ("2025-12-20T10:30:05.25Z", at(2025, 12, 20, 10, 30, 5, 250_000)),
    ("2025-12-20 10:30:00-06:00", at(2025, 12, 20, 16, 30)),
    ("20/12/2025 10:30", at(2025, 12, 20, 10, 30)),
    ("20-12-2025", at(2025, 12, 20)),
    ("20.12.2025 10:30:59", at(2025, 12, 20, 10, 30, 59)),
    ("3/4/2025", at(2025, 4, 3)),
    ("20/12/25", at(2025, 12, 20)),
    ("20/12/69", at(2069, 12, 20)),
    ("20/12/70", at(1970, 12, 20)),
    ("20-dic-2025 10:30", at(2025, 12, 20, 10, 30)),
    ("20 DIC. 2025", at(2025, 12, 20)),
    ("3/sept/25", at(2025, 9, 3)),
    ("1 de enero de 2025", at(2025, 1, 1)),
    ("1º de enero de 2025", at(2025, 1, 1)),
    ("1.º de enero de 2025", at(2025, 1, 1)),
    ("1 de Septiembre del 2025, 14:30 hrs", at(2025, 9, 1, 14, 30)),
    ("sábado, 20 de diciembre de 2025", at(2025, 12, 20)),
    ("mié 3 dic 2025", at(2025, 12, 3)),
    ("mar 20, 2025", at(2025, 3, 20)),
    ("Aug 5, 2025 3:00 PM", at(2025, 8, 5, 15)),
    ("20/12/2025 12:30 a. m.", at(2025, 12, 20, 0, 30)),
    ("20/12/2025 12:30 p.\u00a0m.", at(2025, 12, 20, 12, 30)),
    ("20ene2025", at(2025, 1, 20)),
]


@pytest.mark.parametrize(("text", "moment"), DATES)
def test_dates_read_as_people_write_them(people: People, text: str, moment: datetime) -> None:
    assert people(f"Inicio;Tipo\n{text};Paro\n", EVENTS).column("started_at") == [moment]


@pytest.mark.parametrize(
    "text",
    [
        "31/02/2025",
        "2025-13-01",
        "20/12/2025 25:00",
        "20/12/2025 13:00 pm",
        "20 foo 2025",
        "45000",
        "ayer",
        "12/2025",
        "20/12",
    ],
)
def test_what_is_no_date_is_rejected(people: People, text: str) -> None:
    read = people(f"Inicio;Tipo\n20/12/2025;Paro\n{text};Paro\n", EVENTS)
    assert read.rejected == {"unparsable_started_at": 1}


def test_a_day_stays_the_day_that_is_written_whatever_the_zone(people: People) -> None:
    text = "Modelo de bomba;Fecha de arranque;Fecha de paro\nP;20/12/2025;2025-12-31 23:59 -06:00\n"
    read = people(text, PUMPS, "timezone=America/Mexico_City")
    assert (read.column("started_on"), read.column("stopped_on")) == ([date(2025, 12, 20)], [date(2025, 12, 31)])


@pytest.mark.parametrize(
    ("telling", "order", "month"), [("20/12/2025", "dmy", 4), ("12/20/2025", "mdy", 3), ("12/20/25 10:00 PM", "mdy", 3)]
)
def test_one_date_tells_the_order_of_all(people: People, telling: str, order: str, month: int) -> None:
    read = people(f"Inicio;Fin;Tipo\n03/04/2025;;Paro\n;{telling};Falla\n", EVENTS)
    assert read.column("started_at")[0].month == month
    assert (read.reading.options["dates"], read.reading.told_by["dates"]) == (order, "content")


def test_the_telling_date_may_stand_at_the_very_end(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_csv, "BLOCK_BYTES", 100)
    read = people("Inicio;Tipo\n" + "03/04/2025;Paro\n" * 100 + "04/30/2025;Paro\n", EVENTS)
    assert read.column("started_at")[0] == at(2025, 3, 4)


def test_a_file_in_which_no_date_tells_is_read_day_first_and_says_that_nothing_told(people: People) -> None:
    read = people("Inicio;Tipo\n03/04/2025;Paro\n", EVENTS)
    assert read.column("started_at") == [at(2025, 4, 3)]
    assert (read.reading.options["dates"], read.reading.told_by["dates"]) == ("dmy", "default")
    assert people("Inicio;Tipo\n2025-04-03;Paro\n", EVENTS).reading.told_by["dates"] == "unused"


def test_where_dates_contradict_each_other_the_many_are_right_and_the_few_rejected(people: People) -> None:
    read = people("Inicio;Tipo\n20/12/2025;a\n21/12/2025;b\n12/22/2025;c\n", EVENTS)
    assert read.column("category") == ["a", "b"]
    assert read.rejected == {"unparsable_started_at": 1}


# what a person says comes first


def test_options_come_before_what_the_content_tells(people: People) -> None:
    text = "Inicio;Tipo;Diferida;Nota\n03/04/2025;Paro;1.234;ñ\n"
    read = people(
        text.encode("latin-1"), EVENTS, "separator=;,decimal=.,dates=mdy,encoding=latin-1,timezone=America/Mexico_City"
    )
    assert read.column("started_at") == [at(2025, 3, 4, 6)]
    assert read.column("deferred_bbl") == [1.234]
    assert set(read.reading.told_by.values()) == {"upload"}


def test_a_datasets_file_may_say_how_its_files_are_written(people: People) -> None:
    theirs = replace(EVENTS, csv={"dates": "mdy", "timezone": "America/Mexico_City"})
    read = people("Inicio;Tipo\n03/04/2025;Paro\n", theirs)
    assert read.column("started_at") == [at(2025, 3, 4, 6)]
    assert read.reading.told_by["dates"] == "dataset"
    assert people("Inicio;Tipo\n03/04/2025;Paro\n", theirs, "dates=dmy").reading.told_by["dates"] == "upload"


@pytest.mark.parametrize(
    ("day", "clock", "moment"),
    [
        ("20/12/2025", "10:30", at(2025, 12, 20, 10, 30)),
        ("20/12/2025", "10:30:15 p. m.", at(2025, 12, 20, 22, 30, 15)),
        ("20/12/2025 00:00:00", "10:30", at(2025, 12, 20, 10, 30)),
        ("20/12/2025 12:00:00 a. m.", "10:30", at(2025, 12, 20, 10, 30)),
        ("20/12/2025 09:15", "10:30", at(2025, 12, 20, 9, 15)),
        ("20/12/2025 09:15", "", at(2025, 12, 20, 9, 15)),
        ("20/12/2025", "-", at(2025, 12, 20)),
    ],
)
def test_the_time_of_day_may_stand_in_a_column_of_its_own(
    people: People, day: str, clock: str, moment: datetime
) -> None:
    read = people(sensors(f"{day};{clock};1;2", header="Fecha;Hora;Corriente (A);Frecuencia (Hz)"))
    assert read.column("timestamp") == [moment]
    assert read.reading.ignored == ()


def test_start_and_end_have_clocks_of_their_own_and_one_that_is_none_is_rejected(people: People) -> None:
    header = "Fecha de inicio;Hora de inicio;Fecha de fin;Hora de fin;Tipo"
    read = people("\n".join([header, "20/12/2025;10:30;21/12/2025;11:45;paro", "20/12/2025;late;;;paro"]), EVENTS)
    assert read.column("started_at") == [at(2025, 12, 20, 10, 30)]
    assert read.column("ended_at") == [at(2025, 12, 21, 11, 45)]
    assert read.rejected == {"unparsable_started_at": 1}


def test_of_the_hour_that_comes_twice_the_first_is_meant_and_the_one_that_never_comes_is_no_time(
    people: People,
) -> None:
    text = "Inicio;Tipo\n2021-10-31 01:30;a\n2021-04-04 02:30;b\n"
    read = people(text, EVENTS, "timezone=America/Mexico_City")
    assert read.column("started_at") == [at(2021, 10, 31, 6, 30)]
    assert read.rejected == {"unparsable_started_at": 1}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("separator=;,decimal=,,dates=dmy", {"separator": ";", "decimal": ",", "dates": "dmy"}),
        ("separator=,,decimal=.", {"separator": ",", "decimal": "."}),
        ("decimal=,", {"decimal": ","}),
        (" Separator = tab , ENCODING=Latin-1", {"separator": "tab", "encoding": "windows-1252"}),
        ("separator=\t", {"separator": "tab"}),
        ("separator=semicolon,decimal=comma", {"separator": ";", "decimal": ","}),
    ],
)
def test_options_are_read_from_one_text_and_written_to_one(text: str, options: dict[str, str]) -> None:
    assert read_csv_options(text) == options
    assert read_csv_options(as_text(options)) == options


@pytest.mark.parametrize(
    "text",
    ["", "separator", "separator=:", "decimal=;", "dates=ydm", "encoding=ebcdic", "timezone=Mars/Base", "size=3",
     "decimal=,,decimal=.", "timezone=../../etc/passwd"],
)  # fmt: skip
def test_options_that_are_none_are_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(RejectedInput) as caught:
        read_csv_options(text)
    assert caught.value.rule == "csv_options"


def test_options_for_a_format_that_takes_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"timestamp,src_ip\n")
    with pytest.raises(RejectedInput, match="read in one way"):
        survey_file(tmp_path / "x", REGISTRY["network_events"], "canonical_csv", "decimal=,", tmp_path / "u")


# the file's name, its claim


@pytest.mark.parametrize(
    ("name", "dataset", "well"),
    [
        ("AYATSIL-123_all.csv", SENSORS, "AYATSIL-123"),
        ("ayatsil-55d_ALL.csv.gz", SENSORS, "AYATSIL-55D"),
        ("BEC_AYATSIL-7_all.csv", PUMPS, "AYATSIL-7"),
        ("Eventos_Ayatsil-7-2_all.csv", EVENTS, "AYATSIL-7-2"),
        ("pozo.csv", EVENTS, None),
    ],
)
def test_the_name_of_a_file_tells_its_well(people: People, name: str, dataset: Dataset, well: str | None) -> None:
    assert told_by_name(name, dataset).get("well") == well
    header = {"sensor_data": "Fecha;Amp;Hz", "equipos": "Bomba;Inicio de operación;Días", "eventos": "Inicio;Tipo;Pozo"}
    row = {"sensor_data": "20/12/2025;1;2", "equipos": "P;20/12/2025;1", "eventos": "20/12/2025;Paro;"}
    assert people(f"{header[dataset.name]}\n{row[dataset.name]}\n", dataset, name=name).column("well") == [well]


def test_what_the_rows_say_of_the_well_comes_before_the_files_name(people: People) -> None:
    read = people("Inicio;Tipo;Pozo\n20/12/2025;a;Ayatsil-9\n20/12/2025;b;\n", EVENTS, name="Eventos_AYATSIL-7_all.csv")
    assert read.column("well") == ["AYATSIL-9", "AYATSIL-7"]


def test_a_claim_is_another_where_the_reading_or_the_name_is_and_the_old_ones_stay() -> None:
    def digest(**more: Any) -> str:
        return ParseOptions("eventos", "people_csv", **more).claim_digest("a" * 64)

    assert len({digest(), digest(csv={"dates": "dmy"}), digest(csv={"dates": "mdy"}), digest(named={"well": "X"})}) == 4
    # as it was before there were such options: what was claimed then is found again
    assert ParseOptions("network_events", "zeek_tsv").claim_digest("a" * 64) == (
        "b59b7140c6c4143921161501e4582819c5f7e3a0c64d375aea29b6bb05d0a358"
    )


# files that are no good


def test_a_header_that_lacks_a_column_says_which_and_how_it_may_be_called(people: People) -> None:
    with pytest.raises(RejectedInput) as caught:
        people("Fecha;Corriente (A);Frec\n20/12/2025;1;2\n")
    assert caught.value.rule == "missing_columns"
    assert "frequency_hz (Frecuencia (Hz)" in caught.value.reason
    assert "Frec" in caught.value.reason


def test_two_columns_of_one_meaning_are_refused(people: People) -> None:
    with pytest.raises(RejectedInput, match="motor_current_a"):
        people("Fecha;Corriente (A);Amperaje;Frecuencia\n20/12/2025;1;2;3\n")


@pytest.mark.parametrize("content", ["Fecha;Amp;Hz\n", "Fecha;Amp;Hz", "Fecha;Amp;Hz\n\n;;\n"])
def test_a_header_alone_is_a_file_without_rows(people: People, content: str) -> None:
    with pytest.raises(NoRows):
        people(content)


@pytest.mark.parametrize("content", ["\n\n", "a;b\n1;2\n", "Fecha;Pozo\n1;2\n", "{}\n"])
def test_a_file_without_such_a_header_is_of_another_format(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    with pytest.raises(RejectedInput) as caught:
        parse_file(tmp_path / "x", "x.csv", SENSORS, None, tmp_path / "out")
    assert caught.value.rule == "unknown_format"


def test_half_a_utf16_file_is_refused(people: People) -> None:
    with pytest.raises(RejectedInput, match="UTF-16"):
        people(TEXT.encode("utf-16")[:-1], EVENTS)


def test_a_line_that_never_ends_is_one_rejected_record_in_bounded_memory(people: People) -> None:
    head = b'Inicio;Tipo;Nota\n20/12/2025;a;uno\n20/12/2025;b;"'
    read = people(head + b"x" * (20 * 2**20) + b'"\n20/12/2025;c;dos\n', EVENTS)
    assert read.column("category") == ["a", "c"]
    assert read.rejected == {"line_too_long": 1}
    assert len(read.refused["raw"][0]) <= 64 * 2**10


def test_a_file_in_which_each_record_has_several_lines_is_read_to_its_end(people: People) -> None:
    lines = [f'{n % 28 + 1}/12/2025;Paro;"a{n}\nb"' for n in range(6_000)]
    read = people("\n".join(["Inicio;Tipo;Nota", *lines]) + "\n", EVENTS)
    assert (read.rows.height, read.rejected) == (6_000, {})
    assert read.column("comment")[-1] == "a5999\nb"


def test_lines_that_all_open_a_quote_are_given_up_one_by_one(people: People) -> None:
    header = "Inicio;Tipo;" + ";".join(f"c{n}" for n in range(500))
    read = people("\n".join([header, *['x";"y'] * 20_000, "20/12/2025;a" + ";" * 500]), EVENTS)
    assert read.column("_line") == [20_002]
    assert read.rejected == {"open_quote": 20_000}


def test_too_many_columns_are_refused(people: People) -> None:
    with pytest.raises(RejectedInput) as caught:
        people(sensors("x", header="Fecha;Amp;Hz;" + ";".join(f"c{n}" for n in range(3000))))
    assert caught.value.rule == "too_many_columns"


def test_nulls_are_spelled_in_many_ways(people: People) -> None:
    nulls = ["", "-", "--", "NULL", "N/A", "nan", "s/d", "S/D", "Sin dato", "#N/A", "#DIV/0!", "#¡DIV/0!"]
    read = people(sensors(*(f"2025-12-20;{text};60" for text in nulls)))
    assert read.column("motor_current_a") == [None] * len(nulls)
