"""Which features a subscription has, and how much of each. A master table."""

import polars as pl

from acequia.datasets import Table
from acequia.datasets._table import Column, table_dataset

DATASET = table_dataset(
    name="subscription_features",
    title="Features of subscriptions",
    columns={
        "subscription_id": Column(pl.Int32()),
        "feature_id": Column(pl.Int32()),
        "quantity": Column(pl.Decimal(20, 6), at_least=0),
        "enabled": Column(pl.Boolean(), required=True),
    },
    key=("subscription_id", "feature_id"),
    table=Table(
        relation="public.subscription_features",
        pack="subscriptions",
        references={
            "subscription_id": ("subscriptions", "subscription_id"),
            "feature_id": ("features", "feature_id"),
        },
    ),
)
