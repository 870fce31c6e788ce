"""What the file of a table's dataset is made of: columns with their rules, from which schema and contract follow."""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import dataframely as dy
import polars as pl

from acequia.datasets import DELETED, VERSION, Check, Dataset, Schedule, Table, column_of

READERS = frozenset({"transformer", "lakehouse"})
UTC_TIME = pl.Datetime("us", "UTC")

Bound = int | float | Decimal | date | datetime


@dataclass(frozen=True, slots=True)
class Column:
    """A column and the rules that its name is in. A rule about a value holds where there is none, and each holds for a
    row that is deleted."""

    dtype: pl.DataType
    required: bool = False
    """Rule `<column>_missing`."""
    at_least: Bound | None = None
    """Rule `<column>_range`, also of `at_most`."""
    at_most: Bound | None = None
    one_of: tuple[str, ...] = ()
    """Rule `<column>_unknown`: text that is none of these."""
    pattern: str | None = None
    """Rule `<column>_malformed`: text that this regular expression does not match."""

    def rules(self, name: str) -> dict[str, pl.Expr]:
        column = pl.col(name)
        rules: dict[str, pl.Expr] = {}
        if self.required:
            rules[f"{name}_missing"] = column.is_not_null()
        within = [column >= pl.lit(self.at_least)] if self.at_least is not None else []
        within += [column <= pl.lit(self.at_most)] if self.at_most is not None else []
        if within:
            rules[f"{name}_range"] = column.is_null() | pl.all_horizontal(within)
        if self.one_of:
            rules[f"{name}_unknown"] = column.is_null() | column.is_in(self.one_of)
        if self.pattern is not None:
            rules[f"{name}_malformed"] = column.is_null() | column.str.contains(self.pattern)
        return {rule: pl.col(DELETED) | holds for rule, holds in rules.items()}


def table_dataset(
    name: str,
    title: str,
    columns: Mapping[str, Column],
    *,
    key: tuple[str, ...],
    table: Table,
    checks: tuple[Check, ...] = (),
    rules: Mapping[str, pl.Expr] = MappingProxyType({}),
    schedules: tuple[Schedule, ...] = (),
    max_rejected_share: float = 0.5,
) -> Dataset:
    """The dataset of a table. Its key is always there, rule `<column>_missing`: also of a row that is deleted.

    `rules`: those that are about more than one column.
    """
    named = {f"{column}_missing": pl.col(column).is_not_null() for column in key}
    for column, declared in columns.items():
        named = {**declared.rules(column), **named}
    named |= {rule: pl.col(DELETED) | holds for rule, holds in rules.items()}
    namespace: dict[str, Any] = {column: column_of(declared.dtype) for column, declared in columns.items()}
    namespace["version"] = column_of(pl.Int64(), alias=VERSION)
    namespace["deleted"] = column_of(pl.Boolean(), alias=DELETED)
    namespace |= {rule: _rule(holds) for rule, holds in named.items()}
    contract = types.new_class(
        name.title().replace("_", ""), (dy.Schema,), exec_body=lambda attributes: attributes.update(namespace)
    )
    return Dataset(
        name=name,
        title=title,
        schema=MappingProxyType({column: declared.dtype for column, declared in columns.items()}),
        contract=contract,
        required=key,
        formats=(),
        patterns=(),
        readers=READERS,
        key=key,
        table=table,
        checks=checks,
        schedules=schedules,
        max_rejected_share=max_rejected_share,
    )


def _rule(holds: pl.Expr) -> Any:
    return dy.rule()(lambda _: holds)
