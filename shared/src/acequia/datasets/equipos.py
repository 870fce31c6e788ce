"""The submersible pumps of a well, one row for each that was run in: `BEC_AYATSIL-<number>_all.csv`.

BEC: bombeo electrocentrífugo. Dates of operation are days, as they are written.
"""

from datetime import date
from types import MappingProxyType

import dataframely as dy
import polars as pl

from acequia.datasets import Dataset
from acequia.datasets.sensor_data import WELL

EARLIEST = date(1950, 1, 1)
LATEST = date(2100, 1, 1)


def _positive(column: str) -> pl.Expr:
    return pl.col(column).is_null() | ((pl.col(column) > 0) & pl.col(column).is_finite())


def _not_before(later: str, earlier: str) -> pl.Expr:
    return pl.col(later).is_null() | pl.col(earlier).is_null() | (pl.col(later) >= pl.col(earlier))


class Equipos(dy.Schema):
    """A canonical row: one pump in one well. The unit of a column is the end of its name; `run`: its number in the
    well, from 1; `run_days`: days in operation, as they were reported."""

    well = dy.String(nullable=True)
    run = dy.Int64(nullable=True)
    pump_model = dy.String(nullable=True)
    pump_serial = dy.String(nullable=True)
    pump_stages = dy.Int64(nullable=True)
    motor_model = dy.String(nullable=True)
    motor_power_hp = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    motor_voltage_v = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    motor_current_a = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    setting_depth_m = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    installed_on = dy.Date(nullable=True)
    started_on = dy.Date(nullable=True)
    stopped_on = dy.Date(nullable=True)
    pulled_on = dy.Date(nullable=True)
    run_days = dy.Int64(nullable=True)
    status = dy.String(nullable=True)
    failure_cause = dy.String(nullable=True)

    @dy.rule()
    def well_missing(cls) -> pl.Expr:
        return pl.col("well").is_not_null()

    @dy.rule()
    def well_valid(cls) -> pl.Expr:
        return pl.col("well").is_null() | pl.col("well").str.contains(WELL)

    @dy.rule()
    def pump_model_missing(cls) -> pl.Expr:
        return pl.col("pump_model").is_not_null()

    @dy.rule()
    def started_on_missing(cls) -> pl.Expr:
        return pl.col("started_on").is_not_null()

    @dy.rule()
    def dates_range(cls) -> pl.Expr:
        """From 1950 to before 2100."""
        return pl.all_horizontal(
            pl.col(name).is_null() | pl.col(name).is_between(pl.lit(EARLIEST), pl.lit(LATEST), closed="left")
            for name in ("installed_on", "started_on", "stopped_on", "pulled_on")
        )

    @dy.rule()
    def started_before_installed(cls) -> pl.Expr:
        return _not_before("started_on", "installed_on")

    @dy.rule()
    def stopped_before_started(cls) -> pl.Expr:
        return _not_before("stopped_on", "started_on")

    @dy.rule()
    def pulled_before_stopped(cls) -> pl.Expr:
        return _not_before("pulled_on", "stopped_on")

    @dy.rule()
    def run_positive(cls) -> pl.Expr:
        return pl.col("run").is_null() | (pl.col("run") > 0)

    @dy.rule()
    def run_days_negative(cls) -> pl.Expr:
        return pl.col("run_days").is_null() | (pl.col("run_days") >= 0)

    @dy.rule()
    def pump_stages_positive(cls) -> pl.Expr:
        return pl.col("pump_stages").is_null() | (pl.col("pump_stages") > 0)

    @dy.rule()
    def motor_ratings_positive(cls) -> pl.Expr:
        return pl.all_horizontal(_positive(name) for name in ("motor_power_hp", "motor_voltage_v", "motor_current_a"))

    @dy.rule()
    def setting_depth_range(cls) -> pl.Expr:
        return pl.col("setting_depth_m").is_null() | pl.col("setting_depth_m").is_between(0, 10_000)


DATASET = Dataset(
    name="equipos",
    title="Electric submersible pumps (BEC) of wells",
    schema=MappingProxyType(
        {
            "well": pl.String(),
            "run": pl.Int64(),
            "pump_model": pl.String(),
            "pump_serial": pl.String(),
            "pump_stages": pl.Int64(),
            "motor_model": pl.String(),
            "motor_power_hp": pl.Float64(),
            "motor_voltage_v": pl.Float64(),
            "motor_current_a": pl.Float64(),
            "setting_depth_m": pl.Float64(),
            "installed_on": pl.Date(),
            "started_on": pl.Date(),
            "stopped_on": pl.Date(),
            "pulled_on": pl.Date(),
            "run_days": pl.Int64(),
            "status": pl.String(),
            "failure_cause": pl.String(),
        }
    ),
    contract=Equipos,
    required=("pump_model", "started_on"),
    lowered=frozenset({"status"}),
    uppered=frozenset({"well"}),
    spellings=MappingProxyType(
        {
            "well": ("Pozo", "Nombre del pozo", "Nombre pozo"),
            "run": ("Corrida", "No. de corrida", "Número de corrida", "Núm. corrida", "Aparejo"),
            "pump_model": ("Modelo de bomba", "Modelo bomba", "Bomba", "Tipo de bomba"),
            "pump_serial": ("No. de serie", "Número de serie", "Núm. de serie", "Serie", "Serie de la bomba"),
            "pump_stages": ("Etapas", "No. de etapas", "Número de etapas", "Núm. de etapas"),
            "motor_model": ("Modelo de motor", "Modelo del motor", "Modelo motor", "Motor"),
            "motor_power_hp": ("Potencia (HP)", "Potencia del motor (HP)", "Potencia", "HP"),
            "motor_voltage_v": ("Voltaje (V)", "Voltaje nominal (V)", "Voltaje nominal", "Voltaje"),
            "motor_current_a": (
                "Corriente (A)",
                "Corriente nominal (A)",
                "Corriente nominal",
                "Corriente",
                "Amperaje nominal (A)",
                "Amperaje",
            ),
            "setting_depth_m": (
                "Profundidad de colocación (m)",
                "Profundidad de colocación",
                "Profundidad (m)",
                "Profundidad",
                "Profundidad (md)",
            ),
            "installed_on": ("Fecha de instalación", "Fecha instalación", "Instalación"),
            "started_on": (
                "Fecha de inicio de operación",
                "Inicio de operación",
                "Fecha de arranque",
                "Fecha arranque",
                "Fecha de inicio",
                "Fecha inicio",
                "Fecha de operación",
            ),
            "stopped_on": (
                "Fecha de fin de operación",
                "Fin de operación",
                "Fecha de paro",
                "Fecha paro",
                "Fecha de término",
                "Fecha fin",
                "Fecha de falla",
            ),
            "pulled_on": ("Fecha de recuperación", "Fecha recuperación", "Fecha de retiro", "Fecha de extracción"),
            "run_days": ("Días de operación", "Días operando", "Días en operación", "Run life (días)", "Días"),
            "status": ("Estado", "Estatus", "Estado actual", "Condición"),
            "failure_cause": ("Causa de falla", "Causa de la falla", "Motivo de falla", "Causa"),
        }
    ),
    from_name=MappingProxyType({"well": r"(?i)(?:^|[^a-z0-9])(ayatsil-[a-z0-9]+(?:-[a-z0-9]+)*)_all\."}),
    formats=("people_csv", "canonical_parquet"),
    patterns=("BEC_AYATSIL-*_all.csv", "BEC_AYATSIL-*_all.csv.gz"),
    readers=frozenset({"transformer", "lakehouse"}),
)
