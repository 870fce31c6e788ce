"""Subscriptions: what can be subscribed to. A master table: read in full, moved where it changed."""

import polars as pl

from acequia.datasets import Schedule, Table
from acequia.datasets._table import UTC_TIME, Column, table_dataset

DATASET = table_dataset(
    name="subscriptions",
    title="Subscriptions",
    columns={
        "subscription_id": Column(pl.Int32(), at_least=1),
        "code": Column(pl.String(), required=True, pattern=r"^[A-Z0-9_]+$"),
        "name": Column(pl.String(), required=True),
        "billing_period": Column(pl.String(), required=True, one_of=("monthly", "quarterly", "yearly")),
        "price": Column(pl.Decimal(12, 4), required=True, at_least=0),
        "currency": Column(pl.String(), required=True, pattern=r"^[A-Z]{3}$"),
        "terms": Column(pl.String()),  # JSON
        "active": Column(pl.Boolean(), required=True),
        "created_at": Column(UTC_TIME),
    },
    key=("subscription_id",),
    table=Table(relation="public.subscriptions", pack="subscriptions"),
    schedules=(
        Schedule(
            "subscriptions_daily", "0 6 * * *", "America/Mexico_City", {"kind": "postgres", "pack": "subscriptions"}
        ),
    ),
)
