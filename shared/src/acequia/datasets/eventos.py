"""What happened at a well: stops, failures, interventions, from when to when: `Eventos_AYATSIL-<number>_all.csv`."""

from types import MappingProxyType

import dataframely as dy
import polars as pl

from acequia.datasets import Dataset
from acequia.datasets.sensor_data import EARLIEST, LATEST, WELL


class Eventos(dy.Schema):
    """A canonical row: one event. `ended_at` is null while it lasts; `deferred_bbl`: barrels that were not produced."""

    well = dy.String(nullable=True)
    started_at = dy.Datetime(nullable=True, time_unit="us", time_zone="UTC")
    ended_at = dy.Datetime(nullable=True, time_unit="us", time_zone="UTC")
    category = dy.String(nullable=True)
    subcategory = dy.String(nullable=True)
    deferred_bbl = dy.Float64(nullable=True, allow_inf=True, allow_nan=True)
    reported_by = dy.String(nullable=True)
    comment = dy.String(nullable=True)

    @dy.rule()
    def well_missing(cls) -> pl.Expr:
        return pl.col("well").is_not_null()

    @dy.rule()
    def well_valid(cls) -> pl.Expr:
        return pl.col("well").is_null() | pl.col("well").str.contains(WELL)

    @dy.rule()
    def started_at_missing(cls) -> pl.Expr:
        return pl.col("started_at").is_not_null()

    @dy.rule()
    def started_at_range(cls) -> pl.Expr:
        """From 1970 to before 2100."""
        at = pl.col("started_at")
        return at.is_null() | at.is_between(pl.lit(EARLIEST), pl.lit(LATEST), closed="left")

    @dy.rule()
    def ended_before_started(cls) -> pl.Expr:
        start, end = pl.col("started_at"), pl.col("ended_at")
        return start.is_null() | end.is_null() | (end >= start)

    @dy.rule()
    def category_missing(cls) -> pl.Expr:
        return pl.col("category").is_not_null()

    @dy.rule()
    def deferred_range(cls) -> pl.Expr:
        """0 to 1,000,000 barrels."""
        return pl.col("deferred_bbl").is_null() | pl.col("deferred_bbl").is_between(0, 1_000_000)


DATASET = Dataset(
    name="eventos",
    title="Events of wells: stops, failures, interventions",
    schema=MappingProxyType(
        {
            "well": pl.String(),
            "started_at": pl.Datetime("us", "UTC"),
            "ended_at": pl.Datetime("us", "UTC"),
            "category": pl.String(),
            "subcategory": pl.String(),
            "deferred_bbl": pl.Float64(),
            "reported_by": pl.String(),
            "comment": pl.String(),
        }
    ),
    contract=Eventos,
    required=("started_at", "category"),
    lowered=frozenset({"category", "subcategory"}),
    uppered=frozenset({"well"}),
    spellings=MappingProxyType(
        {
            "well": ("Pozo", "Nombre del pozo", "Nombre pozo"),
            "started_at": (
                "Fecha de inicio",
                "Fecha inicio",
                "Inicio",
                "Inicio del evento",
                "Fecha y hora de inicio",
                "Fecha",
                "Fecha del evento",
            ),
            "ended_at": (
                "Fecha de fin",
                "Fecha fin",
                "Fin",
                "Fin del evento",
                "Fecha y hora de fin",
                "Fecha de término",
                "Fecha final",
            ),
            "category": ("Categoría", "Tipo de evento", "Tipo", "Evento", "Clasificación"),
            "subcategory": ("Subcategoría", "Subtipo", "Causa", "Motivo"),
            "deferred_bbl": (
                "Producción diferida (bbl)",
                "Producción diferida",
                "Diferida (bbl)",
                "Diferida",
                "Bls diferidos",
            ),
            "reported_by": ("Responsable", "Reportó", "Reportado por", "Usuario"),
            "comment": ("Comentario", "Comentarios", "Observaciones", "Observación", "Descripción", "Nota", "Notas"),
        }
    ),
    clocks=MappingProxyType(
        {
            "started_at": ("Hora de inicio", "Hora inicio", "Hora del evento", "Hora"),
            "ended_at": ("Hora de fin", "Hora fin", "Hora de término", "Hora final"),
        }
    ),
    from_name=MappingProxyType({"well": r"(?i)(?:^|[^a-z0-9])(ayatsil-[a-z0-9]+(?:-[a-z0-9]+)*)_all\."}),
    formats=("people_csv", "canonical_parquet"),
    patterns=("Eventos_AYATSIL-*_all.csv", "Eventos_AYATSIL-*_all.csv.gz"),
    readers=frozenset({"transformer", "lakehouse"}),
    event_time="started_at",
)
