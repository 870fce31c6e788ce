"""Keys that a store gives for a while, with their token: enough for the services, the lakehouse and queries."""

from datetime import UTC, datetime
from pathlib import Path

import boto3
import polars as pl
import pyarrow as pa
import pytest
from pydantic import SecretStr

from acequia.adapters.minio import MinioStore
from acequia.errors import ConfigurationError
from acequia.layers import Buckets, Layer, Stem, data_key
from acequia.settings import AcequiaSettings, MinioSettings
from acequia.topology import topology
from acequia_cli import stored
from acequia_lakehouse.catalog import Place
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import Tables
from conftest import Stack

STEM = Stem("network_events", datetime(2025, 12, 20, 6, tzinfo=UTC), "0123456789abcdef", 1)


@pytest.fixture
def temporary(stack: Stack) -> MinioSettings:
    minio = stack.minio
    sts = boto3.client(
        "sts",
        endpoint_url=f"http://{minio.endpoint}",
        aws_access_key_id=minio.access_key,
        aws_secret_access_key=minio.secret_key.get_secret_value(),
        region_name=minio.region,
    )
    given = sts.assume_role(RoleArn="arn:aws:iam::0:role/any", RoleSessionName="acequia")["Credentials"]
    sts.close()
    keys = {"access_key": given["AccessKeyId"], "secret_key": SecretStr(given["SecretAccessKey"])}
    return minio.model_copy(update={**keys, "session_token": SecretStr(given["SessionToken"])})


async def test_with_their_token_they_are_enough(temporary: MinioSettings, fresh_prefix: str, tmp_path: Path) -> None:
    buckets, path = Buckets(fresh_prefix), tmp_path / "object.parquet"
    pl.DataFrame({"id": [1, 2]}).write_parquet(path)
    about = {"metadata": {}, "content_type": "application/octet-stream"}

    async with await MinioStore.open(temporary, buckets) as store:
        await store.apply(topology(buckets))
        await store.put(Layer.SILVER, data_key(STEM, "v1-aaaaaa"), path, **about)
        await store.put(Layer.RAW, data_key(STEM, None), path, **about)
        assert await store.create(Layer.LEDGER, "done/x.json", b"{}", **about) is not None
        assert await store.create(Layer.LEDGER, "done/x.json", b"{}", **about) is None
        servers = stored.Servers(AcequiaSettings(bucket_prefix=fresh_prefix), temporary, store, None)
        raw = await servers.raw("network_events", None)
        with raw.open(next(iter(raw.sizes))) as stream:
            assert stream.read() == path.read_bytes()

    settings = LakehouseSettings(catalog_uri=SecretStr(f"sqlite:///{tmp_path}/catalog.sqlite"))
    place = Place.on_server(temporary, buckets)
    tables = Tables(settings, place)
    assert tables.silver.read(place.location(Layer.SILVER, data_key(STEM, "v1-aaaaaa"))).num_rows == 2
    table = tables.find_or_make(("silver", "visits"), pa.schema([("id", pa.int64())]))
    assert table.location().startswith(f"s3://{fresh_prefix}-lake/")
    tables.close()


async def test_without_their_token_they_are_refused(temporary: MinioSettings, fresh_prefix: str) -> None:
    without = temporary.model_copy(update={"session_token": SecretStr("")})
    async with await MinioStore.open(without, Buckets(fresh_prefix)) as store:
        with pytest.raises(ConfigurationError, match="MINIO_ACCESS_KEY"):
            await store.apply(topology(Buckets(fresh_prefix)))
