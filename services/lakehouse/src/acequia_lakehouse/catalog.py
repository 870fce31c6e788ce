"""Where the tables are: the catalog, their names, and where store and warehouse lie for pyiceberg."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from pyiceberg.catalog import Catalog, load_catalog

from acequia.adapters.tls import trusting
from acequia.errors import ConfigurationError
from acequia.layers import WAREHOUSE, Buckets, Layer
from acequia.settings import MinioSettings
from acequia_lakehouse.files import CA_FILE, STORE_FILES
from acequia_lakehouse.problems import CATALOG, no_catalog_told, translated, until_it_holds
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.sql_catalog import ClosingSqlCatalog

INTERNAL = "_internal"
"""Ends the namespace of what readers need not see: tombstones."""
CATALOG_FILE = "catalog.sqlite"
POSTGRES = ("postgresql+psycopg://", "postgresql://", "postgres://")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the layers' objects and the warehouse lie, as pyiceberg reaches them."""

    roots: Mapping[Layer, str]
    """`s3://bucket/`, or a folder of this machine, with a slash at its end."""
    warehouse: str
    properties: Mapping[str, str]
    """Of pyiceberg's FileIO."""
    name: str
    """Of the catalog, where the settings give it none."""
    catalog_uri: str = ""
    """Of an embedded installation: its own catalog, whatever the settings name."""

    @classmethod
    def on_server(cls, minio: MinioSettings, buckets: Buckets) -> "Place":
        """The layers' buckets of an S3 server."""
        roots = {layer: f"s3://{buckets.of(layer)}/" for layer in Layer}
        properties = {
            "py-io-impl": STORE_FILES,
            "s3.endpoint": f"{'https' if minio.secure else 'http'}://{minio.endpoint}",
            "s3.access-key-id": minio.access_key,
            "s3.secret-access-key": minio.secret_key.get_secret_value(),
            "s3.region": minio.region,
            "s3.connect-timeout": "10",
            "s3.request-timeout": "60",
        }
        if minio.secure and minio.ca_file:
            trusting(minio.ca_file, "MINIO_CA_FILE")
            properties[CA_FILE] = minio.ca_file
        if token := minio.session_token.get_secret_value():
            properties["s3.session-token"] = token
        return cls(roots, f"{roots[Layer.LAKE]}{WAREHOUSE}".rstrip("/"), properties, buckets.prefix)

    @classmethod
    def in_folder(cls, data: Path, buckets: Buckets) -> "Place":
        """An embedded installation: `<data>/store/<bucket>/` and `<data>/lake/`, which is made where it is missing."""
        data = data.resolve()
        lake = data / "lake"
        lake.mkdir(parents=True, exist_ok=True)
        roots = {layer: f"{data}/store/{buckets.of(layer)}/" for layer in Layer}
        return cls(roots, str(lake), {}, buckets.prefix, f"sqlite:///{lake / CATALOG_FILE}")

    def location(self, layer: Layer, key: str) -> str:
        """Where an object lies: what stands in a table's metadata for a SILVER file."""
        return f"{self.roots[layer]}{key}"

    def key(self, layer: Layer, location: str) -> str | None:
        """The key of the layer's object at `location`; None where it lies elsewhere."""
        root = self.roots[layer]
        return location.removeprefix(root) if location.startswith(root) else None


def open_catalog(settings: LakehouseSettings, place: Place) -> Catalog:
    """The catalog that the settings name. Raises ConfigurationError, or TransientFailure where it is away."""
    settings = settings_at(settings, place)
    properties = {
        **place.properties,
        "warehouse": settings.warehouse,
        **settings.catalog_properties,
        "type": settings.catalog,
    }
    if settings.catalog == "rest" and properties["warehouse"] == place.warehouse:
        del properties["warehouse"]  # nobody named one: there it is a name of the server's, which has a default
    uri = settings.catalog_uri.get_secret_value()
    if settings.catalog != "glue":
        if not uri:
            raise ConfigurationError(
                f"ACEQUIA_LAKEHOUSE_CATALOG_URI: a catalog of kind {settings.catalog} needs it (see .env.example)"
            )
        properties["uri"] = uri
    if settings.catalog == "sql":
        properties |= {"pool_pre_ping": "true", "schema_version": "v1"}
        for scheme in POSTGRES:
            if uri.startswith(scheme):
                properties["uri"] = f"postgresql+psycopg://{uri.removeprefix(scheme)}"
        if uri.startswith("sqlite:///"):
            _let_readers_be(Path(uri.removeprefix("sqlite:///")))

    def opened() -> Catalog:
        with translated(), no_catalog_told():
            if settings.catalog == "sql":
                return ClosingSqlCatalog(settings.catalog_name, **properties)
            return load_catalog(settings.catalog_name, **properties)

    return until_it_holds(opened, CATALOG)  # of several that make its tables at once, one wins


def settings_at(settings: LakehouseSettings, place: Place) -> LakehouseSettings:
    """As they hold there: those of an embedded installation's catalog are its own."""
    name = settings.catalog_name or place.name
    if not place.catalog_uri:
        warehouse = settings.warehouse.rstrip("/") or place.warehouse
        return settings.model_copy(update={"catalog_name": name, "warehouse": warehouse})
    own = {"catalog": "sql", "catalog_uri": SecretStr(place.catalog_uri), "catalog_properties": {}}
    return settings.model_copy(update={**own, "catalog_name": name, "warehouse": place.warehouse})


def _let_readers_be(file: Path) -> None:
    """In this mode of SQLite's who reads waits for nobody; it stays with the file."""
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:  # above it: more of why
            return  # of several that do this at once one does it
        raise ConfigurationError(f"{file} can't be used as the catalog of the tables: {error}") from error


def table_name(dataset: str, settings: LakehouseSettings) -> tuple[str, str]:
    """Namespace and name of a dataset's table."""
    return settings.namespace, dataset


def tombstone_table(dataset: str, settings: LakehouseSettings) -> tuple[str, str]:
    """Of the table that says which keys are gone, and since which version."""
    return settings.namespace + INTERNAL, dataset
