"""An embedded installation's folder with objects in it, laid there without any service."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.table import Table
from typer.testing import CliRunner, Result

from acequia.layers import Buckets, Layer, Stem, data_key
from acequia_cli.main import app
from acequia_lakehouse.catalog import Place, open_catalog, table_name
from acequia_lakehouse.settings import LakehouseSettings

EVENTS = pl.DataFrame(
    {
        "timestamp": [datetime(2025, 12, 20, 12, 0, n, tzinfo=UTC) for n in range(3)],
        "src_ip": ["10.0.0.1", "10.0.0.2", "10.0.0.1"],
        "dst_ip": ["192.0.2.1"] * 3,
        "bytes": [100, 200, 300],
        "duration": [0.5, None, 1.5],
        "protocol": ["tcp", "udp", "tcp"],
        "_line": [1, 2, 3],
    },
    schema_overrides={"timestamp": pl.Datetime("us", "UTC")},
)


@dataclass(frozen=True)
class Laid:
    """The folder, and what may be put into it."""

    data: Path

    def raw(self, dataset: str, rows: pl.DataFrame, *, day: int = 20, part: int = 1, modified: str = "") -> Path:
        """An object of RAW that came in on that day of December 2025."""
        stem = Stem(dataset, datetime(2025, 12, day, 6, 0, 0, tzinfo=UTC), "0123456789abcdef", part)
        path = self.data / "store" / Buckets().of(Layer.RAW) / data_key(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(path)
        if modified:
            at = datetime.fromisoformat(modified).timestamp()
            os.utime(path, (at, at))
        return path

    def catalog(self) -> Catalog:
        """The lakehouse's own."""
        return open_catalog(LakehouseSettings(), Place.in_folder(self.data, Buckets()))

    def table(self, dataset: str, columns: pa.Schema) -> Table:
        """An empty table of the lakehouse."""
        catalog = self.catalog()
        namespace, _ = name = table_name(dataset, LakehouseSettings())
        catalog.create_namespace_if_not_exists(namespace)
        return catalog.create_table(name, columns)

    def ask(self, sql: str, *options: object, **more: str) -> Result:
        return acequia("query", sql, "--data", self.data, *options, **more)


def acequia(*arguments: object, **more: str) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], **more)
