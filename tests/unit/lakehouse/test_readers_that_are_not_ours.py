"""DuckDB, polars and, as Athena does, a reader that goes by Glue see the tables as they are."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import boto3
import duckdb
import polars as pl
import pytest
from moto.server import ThreadedMotoServer
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.glue import GlueCatalog

from acequia.layers import Buckets, Layer, data_key
from acequia.settings import MinioSettings
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.maintain import compact, describe, expire
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import STEM, Tables

from .conftest import OLD, Lake, people, visits
from .test_maintenance import LATER

EVENTS, PEOPLE = ("silver", "visits"), ("silver", "people")


def fill(lake: Lake) -> None:
    """Events of which two objects are compacted and one is not; a table with changes and deletions."""
    for number in (1, 2):
        lake.plan(number, lake.put("visits", number, visits(number)))
    compact(lake.tables, EVENTS, ())
    lake.plan(3, lake.put("visits", 3, visits(3, name="y")))
    lake.plan(1, lake.put("people", 1, people(1, {1: "ana", 2: "ben"}), OLD, "1.full.1of1"))
    lake.plan(2, lake.put("people", 2, people(2, {1: "anna", 2: None}), OLD, "2.changes.1of1"))


def test_duckdb_reads_the_files_that_the_table_names(lake: Lake) -> None:
    fill(lake)
    found = {}
    for name in (EVENTS, PEOPLE):
        table = lake.tables.find(name)
        assert table is not None
        files = [task.file.file_path for task in table.scan().plan_files()]
        query = f"select id, name from read_parquet({files!r}, union_by_name => true) order by id"
        found[name[1]] = duckdb.sql(query).fetchall()
    assert found == {"visits": [(1, "x"), (2, "x"), (3, "y")], "people": [(1, "anna")]}


# the plugin that plans its scans is a package of its own, which is not needed
@pytest.mark.filterwarnings("ignore:Iceberg scan planning with the polars_iceberg plugin")
def test_polars_scans_the_table_by_its_metadata(lake: Lake) -> None:
    fill(lake)
    table = lake.tables.find(EVENTS)
    assert table is not None
    frame = pl.scan_iceberg(table).filter(pl.col("id") > 1).select("id", "name").sort("id").collect()
    assert frame.rows() == [(2, "x"), (3, "y")]
    people_table = lake.tables.find(PEOPLE)
    assert people_table is not None
    assert pl.scan_iceberg(people_table.metadata_location).select("id", "name").collect().rows() == [(1, "anna")]


# as Athena: the table by Glue, its files in S3


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with mock.patch.dict(os.environ, credentials):
        yield f"http://{host}:{port}"
    server.stop()


class LakeInS3(Lake):
    """The same, over a server's buckets."""

    def put(self, dataset, number, frame, variant=OLD, load=None, part=1):  # type: ignore[no-untyped-def]
        made = Lake.put(self.local, dataset, number, frame, variant, load, part)  # type: ignore[attr-defined]
        source = Path(self.local.tables.place.location(Layer.SILVER, data_key(made.stem, variant)))  # type: ignore[attr-defined]
        self.s3.upload_file(str(source), "acme-silver", data_key(made.stem, variant))  # type: ignore[attr-defined]
        return made


@pytest.fixture
def glue_lake(aws: str, lake: Lake) -> LakeInS3:
    s3 = boto3.client("s3", endpoint_url=aws)
    for bucket in ("acme-silver", "acme-lake"):
        s3.create_bucket(Bucket=bucket)
    minio = MinioSettings(endpoint=aws.removeprefix("http://"), access_key="test", secret_key="test")
    properties = {"glue.endpoint": aws, "glue.region": "us-east-1"}
    settings = LakehouseSettings(catalog="glue", catalog_properties=properties)
    made = LakeInS3(Tables(settings, Place.on_server(minio, Buckets("acme"))))
    made.local, made.s3 = lake, s3  # type: ignore[attr-defined]
    return made


def test_by_glue_a_reader_finds_the_tables_and_their_rows(glue_lake: LakeInS3, aws: str) -> None:
    fill(glue_lake)

    glue = boto3.client("glue", endpoint_url=aws)
    told = glue.get_table(DatabaseName="silver", Name="visits")["Table"]
    assert told["Parameters"]["table_type"] == "ICEBERG"
    assert {column["Name"] for column in told["StorageDescriptor"]["Columns"]} == {"id", "name", STEM}
    metadata = told["Parameters"]["metadata_location"]
    assert metadata.startswith("s3://acme-lake/warehouse/silver/visits/metadata/")

    options = {
        "s3.endpoint": aws,
        "s3.access-key-id": "test",
        "s3.secret-access-key": "test",
        "s3.region": "us-east-1",
    }
    reader = load_catalog("athena", **{"type": "glue", "glue.endpoint": aws, "glue.region": "us-east-1", **options})
    assert isinstance(reader, GlueCatalog)
    rows = reader.load_table(EVENTS).scan().to_arrow().select(["id", "name"]).sort_by("id").to_pylist()
    assert rows == [{"id": 1, "name": "x"}, {"id": 2, "name": "x"}, {"id": 3, "name": "y"}]
    assert reader.load_table(PEOPLE).scan().to_arrow().select(["id", "name"]).to_pylist() == [{"id": 1, "name": "anna"}]


def test_by_glue_too_a_plan_comes_in_once_and_maintenance_loses_nothing(glue_lake: LakeInS3) -> None:
    first = glue_lake.put("visits", 11, visits(11))
    glue_lake.plan(11, first)
    glue_lake.plan(12, glue_lake.put("visits", 12, visits(12)))
    compact(glue_lake.tables, EVENTS, ())
    expire(glue_lake.tables, EVENTS, LATER)

    assert glue_lake.plan(11, first)["already"] == 1

    assert {11, 12} <= set(glue_lake.rows("visits", "id")["id"])
    assert describe(glue_lake.tables, EVENTS)["snapshots"] == 1
    assert EVENTS in glue_lake.tables.names()
