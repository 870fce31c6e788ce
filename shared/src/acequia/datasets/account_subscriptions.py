"""Subscriptions of accounts: who has what, since when, until when."""

import polars as pl

from acequia.datasets import Table
from acequia.datasets._table import UTC_TIME, Column, table_dataset

DATASET = table_dataset(
    name="account_subscriptions",
    title="Subscriptions of accounts",
    columns={
        "account_subscription_id": Column(pl.String(), pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"),  # UUID
        "account_id": Column(pl.Int64(), required=True),
        "subscription_id": Column(pl.Int32(), required=True),
        "status": Column(pl.String(), required=True, one_of=("trial", "active", "paused", "cancelled")),
        "seats": Column(pl.Int32(), at_least=1),
        "discount": Column(pl.Decimal(5, 4), at_least=0, at_most=1),
        "started_at": Column(UTC_TIME, required=True),
        "ends_at": Column(UTC_TIME),
        "updated_at": Column(UTC_TIME),
    },
    key=("account_subscription_id",),
    table=Table(
        relation="public.account_subscriptions",
        pack="subscriptions",
        cursor="updated_at",
        references={"account_id": ("accounts", "account_id"), "subscription_id": ("subscriptions", "subscription_id")},
    ),
    rules={"ends_before_it_starts": pl.col("ends_at").is_null() | (pl.col("ends_at") >= pl.col("started_at"))},
)
