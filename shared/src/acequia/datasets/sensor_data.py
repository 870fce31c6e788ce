"""What the sensors of a well with an electric submersible pump measure: `AYATSIL-<number>_all.csv`."""

from datetime import UTC, datetime
from types import MappingProxyType

import dataframely as dy
import polars as pl

from acequia.datasets import Dataset

WELL = r"^[A-Z][A-Z0-9]*(?:-[A-Z0-9]+)+$"
"""Field and number, in capitals: AYATSIL-123, AYATSIL-55D."""
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)


def _between(column: str, low: float, high: float) -> pl.Expr:
    """Holds where nothing was measured, too; NaN is no measurement that keeps a rule."""
    return pl.col(column).is_null() | pl.col(column).is_between(low, high)


class SensorData(dy.Schema):
    """A canonical row: one well at one moment. The unit of each column is the end of its name."""

    timestamp = dy.Datetime(nullable=True, time_unit="us", time_zone="UTC")
    well = dy.String(nullable=True)
    intake_pressure_psi = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    discharge_pressure_psi = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    wellhead_pressure_psi = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    intake_temperature_c = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    motor_temperature_c = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    motor_current_a = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    motor_voltage_v = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    frequency_hz = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    vibration_g = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    leakage_current_ma = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)

    @dy.rule()
    def timestamp_missing(cls) -> pl.Expr:
        return pl.col("timestamp").is_not_null()

    @dy.rule()
    def timestamp_range(cls) -> pl.Expr:
        """From 1970 to before 2100: what lies outside is a clock that was never set."""
        at = pl.col("timestamp")
        return at.is_null() | at.is_between(pl.lit(EARLIEST), pl.lit(LATEST), closed="left")

    @dy.rule()
    def well_missing(cls) -> pl.Expr:
        return pl.col("well").is_not_null()

    @dy.rule()
    def well_valid(cls) -> pl.Expr:
        return pl.col("well").is_null() | pl.col("well").str.contains(WELL)

    @dy.rule()
    def nothing_measured(cls) -> pl.Expr:
        return pl.any_horizontal(pl.col(name).is_not_null() for name in MEASURED)

    @dy.rule()
    def intake_pressure_range(cls) -> pl.Expr:
        """0 to 20,000 psi, as the other pressures: a gauge shows -9999 or 65535 where it has lost its sensor."""
        return _between("intake_pressure_psi", 0, 20_000)

    @dy.rule()
    def discharge_pressure_range(cls) -> pl.Expr:
        return _between("discharge_pressure_psi", 0, 20_000)

    @dy.rule()
    def wellhead_pressure_range(cls) -> pl.Expr:
        return _between("wellhead_pressure_psi", 0, 20_000)

    @dy.rule()
    def intake_temperature_range(cls) -> pl.Expr:
        """-50 to 400 degrees, as the motor's."""
        return _between("intake_temperature_c", -50, 400)

    @dy.rule()
    def motor_temperature_range(cls) -> pl.Expr:
        return _between("motor_temperature_c", -50, 400)

    @dy.rule()
    def motor_current_range(cls) -> pl.Expr:
        return _between("motor_current_a", 0, 2_000)

    @dy.rule()
    def motor_voltage_range(cls) -> pl.Expr:
        return _between("motor_voltage_v", 0, 20_000)

    @dy.rule()
    def frequency_range(cls) -> pl.Expr:
        """A variable-speed drive gives up to about 75 Hz; a permanent-magnet motor takes up to 200."""
        return _between("frequency_hz", 0, 200)

    @dy.rule()
    def vibration_range(cls) -> pl.Expr:
        return _between("vibration_g", 0, 100)

    @dy.rule()
    def leakage_current_range(cls) -> pl.Expr:
        return _between("leakage_current_ma", 0, 1_000)


MEASURED = tuple(name for name in SensorData.column_names() if name not in ("timestamp", "well"))

DATASET = Dataset(
    name="sensor_data",
    title="Sensors of wells with an electric submersible pump (BEC)",
    schema=MappingProxyType(
        {"timestamp": pl.Datetime("us", "UTC"), "well": pl.String(), **dict.fromkeys(MEASURED, pl.Float64())}
    ),
    contract=SensorData,
    required=("timestamp", "motor_current_a", "frequency_hz"),
    uppered=frozenset({"well"}),
    spellings=MappingProxyType(
        {
            "timestamp": (
                "Fecha",
                "Fecha y hora",
                "Fecha/Hora",
                "Fecha_Hora",
                "Fecha hora",
                "Estampa de tiempo",
                "Time",
            ),
            "well": ("Pozo", "Nombre del pozo", "Nombre pozo"),
            "intake_pressure_psi": (
                "Presión de succión (psi)",
                "Presión de succión",
                "Presión succión",
                "Presión de entrada (psi)",
                "Presión de entrada",
                "Presión intake",
                "Presión intake (psi)",
                "PIP",
                "PIP (psi)",
                "P_succion",
            ),
            "discharge_pressure_psi": (
                "Presión de descarga (psi)",
                "Presión de descarga",
                "Presión descarga",
                "PDP",
                "PDP (psi)",
                "P_descarga",
            ),
            "wellhead_pressure_psi": (
                "Presión en cabeza (psi)",
                "Presión en cabeza",
                "Presión de cabeza",
                "Presión cabeza",
                "Presión TP",
                "Presión TP (psi)",
                "PTP",
                "THP",
                "WHP",
            ),
            "intake_temperature_c": (
                "Temperatura de succión (°C)",
                "Temperatura de succión",
                "Temperatura succión",
                "Temperatura de entrada",
                "Temperatura intake",
                "Temp. succión",
                "T_succion",
                "Ti",
            ),
            "motor_temperature_c": (
                "Temperatura del motor (°C)",
                "Temperatura de motor (°C)",
                "Temperatura del motor",
                "Temperatura de motor",
                "Temperatura motor",
                "Temp. motor",
                "T_motor",
                "Tm",
            ),
            "motor_current_a": (
                "Corriente del motor (A)",
                "Corriente de motor (A)",
                "Corriente (A)",
                "Corriente del motor",
                "Corriente de motor",
                "Corriente motor",
                "Corriente",
                "Amperaje",
                "Amperaje (A)",
                "Amp",
            ),
            "motor_voltage_v": (
                "Voltaje del motor (V)",
                "Voltaje (V)",
                "Voltaje del motor",
                "Voltaje motor",
                "Voltaje",
                "Tensión (V)",
                "Tensión",
            ),
            "frequency_hz": (
                "Frecuencia (Hz)",
                "Frecuencia",
                "Frecuencia de operación (Hz)",
                "Frecuencia de operación",
                "Hz",
            ),
            "vibration_g": ("Vibración (g)", "Vibración", "Vibración X", "Vibración X (g)"),
            "leakage_current_ma": (
                "Corriente de fuga (mA)",
                "Corriente de fuga",
                "Fuga de corriente (mA)",
                "Fuga de corriente",
            ),
        }
    ),
    clocks=MappingProxyType({"timestamp": ("Hora", "Hora de lectura", "Hora de medición")}),
    from_name=MappingProxyType({"well": r"(?i)(?:^|[^a-z0-9])(ayatsil-[a-z0-9]+(?:-[a-z0-9]+)*)_all\."}),
    formats=("people_csv", "canonical_parquet"),
    patterns=("AYATSIL-*_all.csv", "AYATSIL-*_all.csv.gz"),
    readers=frozenset({"transformer", "lakehouse"}),
    event_time="timestamp",
)
