"""Files as an oilfield has them, drawn by a seed: each well's sensors, pumps and events, as people export them.

The same seed gives the same bytes. What each file says is known, row by row, so that tests can hold against it what
came of it.
"""

import csv
import io
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from acequia.datasets import Dataset, load_registry
from acequia_cli.commands import Output
from acequia_cli.complaints import DONE, WrongUse

FIELD = "AYATSIL"
STEP = timedelta(minutes=10)
_ABBREVIATED = ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic")
_MONTHS = (
    *("enero", "febrero", "marzo", "abril", "mayo", "junio"),
    *("julio", "agosto", "septiembre", "octubre", "noviembre", "diciembre"),
)
_UNREAD = "Sin señal"
"""What a display shows instead of a number: it can't be read as one."""
_LOST = -9999.0
"""What a gauge reports that has lost its sensor: it reads, and breaks the contract."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Habit:
    """How somebody exports CSV."""

    name: str
    encoding: str
    separator: str
    decimal: str
    group: str
    day: Callable[[date], str]
    afternoon: str | None = None
    """Twelve hours: what stands behind those after noon, `am` behind the others being its first word."""
    line_end: str = "\n"
    quote_all: bool = False
    spare: int = 0
    """Separators at the end of each line that nobody needs."""
    title: tuple[str, ...] = ()


HABITS = (
    Habit("a program", "utf-8", ",", ".", "", lambda d: d.isoformat()),
    Habit("Excel in Spanish", "utf-8-sig", ";", ",", ".", lambda d: f"{d:%d/%m/%Y}", line_end="\r\n"),
    Habit("an old export", "latin-1", ";", ",", "", lambda d: f"{d.day:02d}-{_ABBREVIATED[d.month - 1]}-{d.year}"),
    Habit(
        "Excel as text",
        "cp1252",
        "\t",
        ",",
        " ",
        lambda d: f"{d.day} de {_MONTHS[d.month - 1]} de {d.year}",
        line_end="\r\n",
    ),
    Habit("a contractor abroad", "cp1252", ",", ".", ",", lambda d: f"{d:%m/%d/%Y}", afternoon="PM"),
    Habit("a historian", "utf-8", "|", ".", "", lambda d: f"{d:%d/%m/%y}"),
    Habit(
        "a report",
        "utf-8-sig",
        ";",
        ",",
        ".",
        lambda d: f"{d:%d-%m-%Y}",
        line_end="\r\n",
        spare=3,
        title=("Reporte de operación", ""),
    ),
    Habit(
        "everything quoted",
        "utf-8",
        ",",
        ",",
        ".",
        lambda d: f"{d.day} {_ABBREVIATED[d.month - 1]}. {d.year}",
        afternoon="p. m.",
        quote_all=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A file that was drawn, and what it says."""

    dataset: str
    name: str
    habit: Habit
    content: bytes
    rows: Sequence[Row]
    """Canonical values of the records that can be read, in order."""
    unreadable: int
    """Records of which a cell can't be read."""
    invalid: int
    """Of `rows`, those that break the contract."""


def draw_oilfield(wells: int, days: int, seed: int) -> Iterator[Sample]:
    """Three files for each well: what its sensors measured in `days`, its pumps, its events. Within eight wells each
    kind of file is met in each habit."""
    registry = load_registry()
    number = 0
    for n in range(wells):
        well = f"{FIELD}-{100 + 3 * n}{'D' if n % 4 == 3 else ''}"
        for dataset, prefix, draw in (
            ("sensor_data", "", _sensors),
            ("equipos", "BEC_", _pumps),
            ("eventos", "Eventos_", _events),
        ):
            rng = random.Random(f"{seed}/{well}/{dataset}")  # noqa: S311 - a sample, no secret
            habit = HABITS[number % len(HABITS)]
            number += 1
            drawn = draw(rng, well, days)
            yield _written(registry[dataset], f"{prefix}{well}_all.csv", habit, drawn, rng)


def _begin(rng: random.Random) -> datetime:
    """A morning late in a month: a day that can be no month tells the order of a date."""
    return datetime(2025, rng.randint(1, 12), rng.randint(13, 20), tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Drawn:
    row: Row
    unread: str | None = None
    """Column whose cell can't be read."""
    invalid: bool = False


def _sensors(rng: random.Random, well: str, days: int) -> Iterator[_Drawn]:
    begin = _begin(rng)
    intake, discharge = rng.uniform(900, 1600), rng.uniform(2600, 3900)
    current, frequency = rng.uniform(35, 80), rng.choice((50.0, 55.0, 60.0))
    for n in range(int(days * timedelta(days=1) / STEP)):
        swing = math.sin(2 * math.pi * n / 144)
        row: dict[str, Any] = {
            "timestamp": begin + n * STEP,
            "well": well,
            "intake_pressure_psi": round(intake + 12 * swing + rng.gauss(0, 3), 2),
            "discharge_pressure_psi": round(discharge - 20 * swing + rng.gauss(0, 5), 2),
            "wellhead_pressure_psi": round(310 + 4 * swing + rng.gauss(0, 1), 2),
            "intake_temperature_c": round(96 + swing + rng.gauss(0, 0.2), 2),
            "motor_temperature_c": round(128 + 2 * swing + rng.gauss(0, 0.5), 2),
            "motor_current_a": round(current + swing + rng.gauss(0, 0.4), 2),
            "motor_voltage_v": round(2280 + rng.gauss(0, 8), 1),
            "frequency_hz": frequency,
            "vibration_g": round(abs(rng.gauss(0.3, 0.1)), 3),
            "leakage_current_ma": None if rng.random() < 0.05 else round(abs(rng.gauss(0.4, 0.1)), 3),
        }
        what = rng.random()
        if what < 0.003:
            row["intake_pressure_psi"] = _LOST
        yield _Drawn(row, "motor_temperature_c" if what > 0.997 else None, what < 0.003)


def _pumps(rng: random.Random, well: str, days: int) -> Iterator[_Drawn]:
    at = _begin(rng).date() - timedelta(days=365 * 6)
    for run in range(1, rng.randint(4, 7)):
        installed, started = at, at + timedelta(days=rng.randint(2, 9))
        lasted = rng.randint(90, 700)
        stopped = started + timedelta(days=lasted)
        running = stopped > date(2025, 1, 1)
        wrong = run == 3 and rng.random() < 0.3
        yield _Drawn(
            {
                "well": well,
                "run": run,
                "pump_model": rng.choice(("P23SSD", "DN1750", "538P47", "SN8500", "TD4300")),
                "pump_serial": f"{rng.randint(100000, 999999)}-{rng.choice('ABC')}",
                "pump_stages": rng.randint(40, 180),
                "motor_model": rng.choice(("562XP, 2 cuerpos", "456MSP1", 'Maximus 5,62"', "Dominator 562")),
                "motor_power_hp": float(rng.choice((250, 330, 500, 1180))),
                "motor_voltage_v": float(rng.choice((2100, 2280, 3250))),
                "motor_current_a": round(rng.uniform(60, 130), 1),
                "setting_depth_m": round(rng.uniform(3200, 4100), 1),
                "installed_on": installed,
                "started_on": started,
                "stopped_on": None if running else started - timedelta(days=4) if wrong else stopped,
                "pulled_on": None if running else stopped + timedelta(days=12),
                "run_days": lasted,
                "status": "operando" if running else rng.choice(("fallado", "recuperado")),
                "failure_cause": None
                if running
                else rng.choice(("Aislamiento bajo", "Flecha rota", "Sólidos; desgaste")),
            },
            invalid=wrong and not running,
        )
        if running:
            return
        at = stopped + timedelta(days=rng.randint(15, 60))


_COMMENTS = (
    "Se restableció la operación sin novedad",
    'Cambio de TP 3 1/2" y revisión de cable',
    "Paro por baja carga; se ajustó la frecuencia",
    "Falla de energía en plataforma, 2 intentos de arranque",
    "Aislamiento fase-tierra: 0.3 megohms; en observación",
    "Primera línea: vibración alta\nSegunda línea: se redujo la frecuencia\n\nPendiente: cotizar",
    'El operador anotó "sin presión" en la bitácora',
)


def _events(rng: random.Random, well: str, days: int) -> Iterator[_Drawn]:
    at = _begin(rng)
    for n in range(max(6, 2 * days)):
        lasted = timedelta(minutes=rng.randint(5, 60 * 30))
        last = n >= 5 and rng.random() < 0.05
        wrong = n > 0 and rng.random() < 0.02
        yield _Drawn(
            {
                "well": well,
                "started_at": at,
                "ended_at": None if last else at - lasted if wrong else at + lasted,
                "category": rng.choice(("paro", "falla", "intervención", "prueba de producción")),
                "subcategory": rng.choice(("eléctrica", "mecánica", "superficie", "programado", None)),
                "deferred_bbl": round(rng.uniform(0, 4200), 1),
                "reported_by": rng.choice(("Turno A", "Turno B", "Operación, plataforma 2")),
                "comment": rng.choice(_COMMENTS),
            },
            invalid=wrong and not last,
        )
        at += timedelta(minutes=rng.randint(60, 60 * 20))


def _written(dataset: Dataset, name: str, habit: Habit, drawn: Iterator[_Drawn], rng: random.Random) -> Sample:
    all_rows = list(drawn)
    # the file's name tells the well, too
    columns = [c for c in dataset.schema if c != "well" or rng.random() < 0.5]
    names = [rng.choice(dataset.spellings[column]) for column in columns]
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=habit.separator,
        lineterminator=habit.line_end,
        quoting=csv.QUOTE_ALL if habit.quote_all else csv.QUOTE_MINIMAL,
    )
    for title in habit.title:
        writer.writerow([title, *[""] * (len(names) + habit.spare - 1)])
    writer.writerow([*names, *[""] * habit.spare])
    for one in all_rows:
        cells = [_UNREAD if column == one.unread else _cell(one.row[column], habit) for column in columns]
        writer.writerow([*cells, *[""] * habit.spare])
    return Sample(
        dataset.name,
        name,
        habit,
        text.getvalue().encode(habit.encoding),
        [one.row for one in all_rows if one.unread is None],
        sum(one.unread is not None for one in all_rows),
        sum(one.invalid for one in all_rows if one.unread is None),
    )


def _cell(value: Any, habit: Habit) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{habit.day(value.date())} {_hour(value, habit)}"
    if isinstance(value, date):
        return habit.day(value)
    if isinstance(value, int | float):
        text = f"{value:,}" if habit.group else f"{value}"
        return text.replace(",", " ").replace(".", habit.decimal).replace(" ", habit.group)
    return str(value)


def _hour(at: datetime, habit: Habit) -> str:
    if habit.afternoon is None:
        return f"{at:%H:%M}"
    half = habit.afternoon if at.hour >= 12 else habit.afternoon.replace("p", "a").replace("P", "A")
    return f"{(at.hour + 11) % 12 + 1}:{at:%M} {half}"


@dataclass(frozen=True, slots=True)
class WriteOilfieldSamples:
    """Draw the files into a folder."""

    folder: Path
    wells: int
    days: int
    seed: int

    async def run(self, output: Output) -> int:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WrongUse(f"{self.folder} can't be used as a folder: {error.strerror}") from error
        files: list[Mapping[str, Any]] = []
        for sample in draw_oilfield(self.wells, self.days, self.seed):
            path = self.folder / sample.name
            path.write_bytes(sample.content)
            files.append(
                {
                    "path": str(path),
                    "dataset": sample.dataset,
                    "made_by": sample.habit.name,
                    "encoding": sample.habit.encoding,
                    "separator": sample.habit.separator,
                    "rows": len(sample.rows) + sample.unreadable,
                    "unreadable": sample.unreadable,
                    "invalid": sample.invalid,
                }
            )
        output.document({"files": files})
        if not output.as_json:
            for file in files:
                output.remark(f"{file['path']}  {file['dataset']}, {file['rows']:,} rows, as {file['made_by']} writes")
            output.remark(f"{len(files)} files. Bring them in: acequia watch {self.folder} --once")
        return DONE
