"""Accounts: who has subscribed. A row that is taken back stays, with the time in `deleted_at`."""

from datetime import date

import polars as pl

from acequia.datasets import Table
from acequia.datasets._table import UTC_TIME, Column, table_dataset

DATASET = table_dataset(
    name="accounts",
    title="Accounts",
    columns={
        "account_id": Column(pl.Int64(), at_least=1),
        "email": Column(pl.String(), required=True, pattern=r"^[^@\s]+@[^@\s]+$"),
        "name": Column(pl.String(), required=True),
        "country": Column(pl.String(), pattern=r"^[A-Z]{2}$"),
        "segment": Column(pl.String(), one_of=("consumer", "business", "education")),
        "balance": Column(pl.Decimal(14, 2)),
        "preferences": Column(pl.String()),  # JSON
        "tags": Column(pl.List(pl.String())),
        "avatar_sha256": Column(pl.Binary()),
        "birth_date": Column(pl.Date(), at_least=date(1900, 1, 1)),
        "created_at": Column(UTC_TIME, required=True),
        "updated_at": Column(UTC_TIME),
        "deleted_at": Column(UTC_TIME),
    },
    key=("account_id",),
    table=Table(relation="public.accounts", pack="subscriptions", cursor="updated_at", deleted="deleted_at"),
)
