"""Contents: what subscribers watch, read and hear."""

import polars as pl

from acequia.datasets import Table
from acequia.datasets._table import UTC_TIME, Column, table_dataset

DATASET = table_dataset(
    name="contents",
    title="Contents",
    columns={
        "content_id": Column(pl.Int64(), at_least=1),
        "title": Column(pl.String(), required=True),
        "kind": Column(pl.String(), required=True, one_of=("film", "series", "article", "audio")),
        "languages": Column(pl.List(pl.String())),
        "seconds": Column(pl.Int32(), at_least=0),
        "rating": Column(pl.Float64(), at_least=0, at_most=10),
        "thumbnail": Column(pl.Binary()),
        "released_on": Column(pl.Date()),
        "updated_at": Column(UTC_TIME),
    },
    key=("content_id",),
    table=Table(relation="public.contents", pack="subscriptions", cursor="updated_at"),
)
