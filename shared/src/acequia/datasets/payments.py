"""Payments: what accounts paid for their subscriptions, or tried to."""

import polars as pl

from acequia.datasets import Check, Table
from acequia.datasets._table import UTC_TIME, Column, table_dataset

DATASET = table_dataset(
    name="payments",
    title="Payments",
    columns={
        "payment_id": Column(pl.Int64(), at_least=1),
        "account_subscription_id": Column(pl.String(), required=True),
        "amount": Column(pl.Decimal(12, 2), required=True, at_least=0),
        "currency": Column(pl.String(), required=True, pattern=r"^[A-Z]{3}$"),
        "method": Column(pl.String(), required=True, one_of=("card", "transfer", "wallet", "cash")),
        "status": Column(pl.String(), required=True, one_of=("pending", "paid", "failed", "refunded")),
        "details": Column(pl.String()),  # JSON
        "receipt": Column(pl.Binary()),
        "paid_at": Column(UTC_TIME),
        "updated_at": Column(UTC_TIME),
    },
    key=("payment_id",),
    table=Table(
        relation="public.payments",
        pack="subscriptions",
        cursor="updated_at",
        references={"account_subscription_id": ("account_subscriptions", "account_subscription_id")},
    ),
    checks=(
        Check(
            "paid_without_a_time",
            rows=(pl.col("status") != "paid") | pl.col("paid_at").is_not_null(),
        ),
        Check(
            "refunds_without_a_payment",
            sql="SELECT count(*) FROM public.payments WHERE status = 'refunded' AND paid_at IS NULL",
        ),
    ),
)
