"""The oilfield's datasets: whose file is whose, what a row has to keep, and that no name means two columns."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from acequia.datasets import Dataset, load_registry
from acequia_ingestor.formats._people_header import fold

REGISTRY = load_registry()
OILFIELD = ("sensor_data", "equipos", "eventos")
GOOD: dict[str, dict[str, Any]] = {
    "sensor_data": {"timestamp": datetime(2025, 12, 20, tzinfo=UTC), "well": "AYATSIL-123", "frequency_hz": 60.0},
    "equipos": {
        "well": "AYATSIL-123",
        "run": 1,
        "pump_model": "P23",
        "installed_on": date(2025, 1, 1),
        "started_on": date(2025, 1, 2),
        "stopped_on": date(2025, 2, 2),
        "pulled_on": date(2025, 3, 2),
    },
    "eventos": {"well": "AYATSIL-123", "started_at": datetime(2025, 12, 20, tzinfo=UTC), "category": "paro"},
}
LATER = datetime(2025, 12, 21, tzinfo=UTC)

BROKEN: list[tuple[str, str, dict[str, Any]]] = [
    ("sensor_data", "timestamp_missing", {"timestamp": None}),
    ("sensor_data", "timestamp_range", {"timestamp": datetime(1969, 12, 31, tzinfo=UTC)}),
    ("sensor_data", "well_missing", {"well": None}),
    ("sensor_data", "well_valid", {"well": "123"}),
    ("sensor_data", "nothing_measured", {"frequency_hz": None}),
    ("sensor_data", "intake_pressure_range", {"intake_pressure_psi": -9999.0}),
    ("sensor_data", "discharge_pressure_range", {"discharge_pressure_psi": 65535.0}),
    ("sensor_data", "wellhead_pressure_range", {"wellhead_pressure_psi": -0.1}),
    ("sensor_data", "intake_temperature_range", {"intake_temperature_c": 401.0}),
    ("sensor_data", "motor_temperature_range", {"motor_temperature_c": float("nan")}),
    ("sensor_data", "motor_current_range", {"motor_current_a": -1.0}),
    ("sensor_data", "motor_voltage_range", {"motor_voltage_v": float("inf")}),
    ("sensor_data", "frequency_range", {"frequency_hz": 201.0}),
    ("sensor_data", "vibration_range", {"vibration_g": -0.5}),
    ("sensor_data", "leakage_current_range", {"leakage_current_ma": 1001.0}),
    ("equipos", "well_missing", {"well": None}),
    ("equipos", "well_valid", {"well": "ayatsil 123"}),
    ("equipos", "pump_model_missing", {"pump_model": None}),
    ("equipos", "started_on_missing", {"started_on": None}),
    ("equipos", "dates_range", {"pulled_on": date(2100, 1, 1)}),
    ("equipos", "started_before_installed", {"installed_on": date(2025, 1, 3)}),
    ("equipos", "stopped_before_started", {"stopped_on": date(2025, 1, 1)}),
    ("equipos", "pulled_before_stopped", {"pulled_on": date(2025, 2, 1)}),
    ("equipos", "run_positive", {"run": 0}),
    ("equipos", "run_days_negative", {"run_days": -1}),
    ("equipos", "pump_stages_positive", {"pump_stages": 0}),
    ("equipos", "motor_ratings_positive", {"motor_power_hp": 0.0}),
    ("equipos", "setting_depth_range", {"setting_depth_m": 10_001.0}),
    ("eventos", "well_missing", {"well": None}),
    ("eventos", "well_valid", {"well": "-"}),
    ("eventos", "started_at_missing", {"started_at": None}),
    ("eventos", "started_at_range", {"started_at": datetime(2100, 1, 1, tzinfo=UTC)}),
    ("eventos", "ended_before_started", {"ended_at": datetime(2025, 12, 19, tzinfo=UTC)}),
    ("eventos", "category_missing", {"category": None}),
    ("eventos", "deferred_range", {"deferred_bbl": -1.0}),
]


def rows(dataset: Dataset, *changed: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([GOOD[dataset.name] | more for more in changed], schema=dict(dataset.schema))


@pytest.mark.parametrize(("name", "rule", "changed"), BROKEN, ids=[f"{name}-{rule}" for name, rule, _ in BROKEN])
def test_each_rule_rejects_the_row_that_breaks_it_and_keeps_the_one_that_does_not(
    name: str, rule: str, changed: dict[str, Any]
) -> None:
    dataset = REGISTRY[name]
    good, failure = dataset.contract.filter(rows(dataset, {}, changed))
    assert good.height == 1
    assert rule in failure.counts()


@pytest.mark.parametrize("name", OILFIELD)
def test_each_rule_is_shown_broken(name: str) -> None:
    rules = {rule for broken, rule, _ in BROKEN if broken == name}
    good, failure = REGISTRY[name].contract.filter(rows(REGISTRY[name], *(c for n, _, c in BROKEN if n == name)))
    assert (good.height, set(failure.counts())) == (0, rules)


def test_an_event_that_lasts_and_a_pump_that_runs_have_no_end() -> None:
    running = {"stopped_on": None, "pulled_on": None}
    pumps, events = REGISTRY["equipos"], REGISTRY["eventos"]
    assert pumps.contract.filter(rows(pumps, running))[0].height == 1
    assert events.contract.filter(rows(events, {"ended_at": None}, {"ended_at": LATER}))[0].height == 2


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("AYATSIL-123_all.csv", "sensor_data"),
        ("ayatsil-55D_ALL.CSV", "sensor_data"),
        ("BEC_AYATSIL-123_all.csv", "equipos"),
        ("Eventos_AYATSIL-123_all.csv", "eventos"),
        ("EVENTOS_ayatsil-1_all.csv.gz", "eventos"),
    ],
)
def test_a_file_is_of_the_one_dataset_that_its_name_says(name: str, dataset: str) -> None:
    assert [found.name for found in REGISTRY.matching(name)] == [dataset]


@pytest.mark.parametrize("name", ["AYATSIL-123.csv", "OTRO_AYATSIL-123_all.csv", "AYATSIL-123_all.xlsx"])
def test_other_names_are_nobodys(name: str) -> None:
    assert REGISTRY.matching(name) == []


@pytest.mark.parametrize("name", OILFIELD)
def test_they_train_no_model_and_no_two_files_are_in_each_others_way(name: str) -> None:
    dataset = REGISTRY[name]
    assert (dataset.readers, dataset.key, dataset.features) == (frozenset({"transformer", "lakehouse"}), (), ())


@pytest.mark.parametrize("name", OILFIELD)
def test_no_name_that_people_write_means_two_columns(name: str) -> None:
    dataset = REGISTRY[name]
    meant: dict[str, set[str]] = {}
    for column in dataset.schema:
        for spelling in (column, *dataset.spellings[column]):
            meant.setdefault(fold(spelling), set()).add(column)
        for spelling in dataset.clocks.get(column, ()):
            meant.setdefault(fold(spelling), set()).add(f"the clock of {column}")
    assert {spelling: columns for spelling, columns in meant.items() if len(columns) > 1} == {}
    assert set(dataset.spellings) == set(dataset.schema)


def test_a_datasets_file_that_names_a_column_that_is_not_there_is_refused() -> None:
    for wrong in (
        {"spellings": {"x": ("y",)}},
        {"clocks": {"x": ("y",)}},
        {"from_name": {"x": "(y)"}},
        {"uppered": frozenset({"x"})},
    ):
        with pytest.raises(ValueError, match="no column x"):
            replace(REGISTRY["eventos"], **wrong)  # type: ignore[arg-type]
