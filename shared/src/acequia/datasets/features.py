"""Features: what a subscription may contain. A master table."""

import polars as pl

from acequia.datasets import Table
from acequia.datasets._table import Column, table_dataset

DATASET = table_dataset(
    name="features",
    title="Features",
    columns={
        "feature_id": Column(pl.Int32(), at_least=1),
        "code": Column(pl.String(), required=True),
        "kind": Column(pl.String(), required=True, one_of=("limit", "switch", "service")),
        "description": Column(pl.String()),
        "platforms": Column(pl.List(pl.String())),
        "defaults": Column(pl.String()),  # JSON
    },
    key=("feature_id",),
    table=Table(relation="public.features", pack="subscriptions"),
)
