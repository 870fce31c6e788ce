"""Attributes of contents: any number of names with a value each. Rows of before 2020 have no `updated_at`."""

import polars as pl

from acequia.datasets import Table
from acequia.datasets._table import UTC_TIME, Column, table_dataset

DATASET = table_dataset(
    name="content_attributes",
    title="Attributes of contents",
    columns={
        "content_id": Column(pl.Int64()),
        "name": Column(pl.String()),
        "value": Column(pl.String()),  # JSON
        "weights": Column(pl.List(pl.Float64())),
        "updated_at": Column(UTC_TIME),
    },
    key=("content_id", "name"),
    table=Table(
        relation="public.content_attributes",
        pack="subscriptions",
        cursor="updated_at",
        references={"content_id": ("contents", "content_id")},
    ),
)
