"""A user who may do what `deploy/minio/policy.json` says, and nothing else, is enough for Acequia."""

import secrets
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from miniopy_async import MinioAdmin
from miniopy_async.credentials import StaticProvider
from pydantic import SecretStr

from acequia.adapters.minio import MinioStore
from acequia.adapters.minio_probe import MinioProbe
from acequia.errors import ConfigurationError
from acequia.layers import Buckets, Layer
from acequia.topology import topology
from acequia_cli.doctor.findings import Chart, State
from acequia_cli.doctor.store import examine_store

POLICY = Path(__file__).resolve().parents[2] / "deploy" / "minio" / "policy.json"


@pytest.fixture
async def limited(stack, fresh_prefix, tmp_path):
    """Settings of a user with the policy, written for buckets of this test."""
    minio = stack.minio
    user, password = f"u{uuid4().hex[:12]}", secrets.token_hex(20)
    policy = tmp_path / "policy.json"
    policy.write_text(POLICY.read_text().replace("cybersec-ml", fresh_prefix))
    async with aiohttp.ClientSession() as session:
        admin = MinioAdmin(
            minio.endpoint,
            StaticProvider(minio.access_key, minio.secret_key.get_secret_value()),
            region=minio.region,
            secure=minio.secure,
            session=session,
        )
        await admin.policy_add(user, str(policy))
        await admin.user_add(user, password)
        await admin.policy_set(user, user)
        yield minio.model_copy(update={"access_key": user, "secret_key": SecretStr(password)})
        await admin.user_remove(user)
        await admin.policy_remove(user)


async def some_chunks():
    yield b"a" * 9_000_000
    yield b"b"


async def test_the_policy_allows_all_that_the_store_does(limited, fresh_prefix):
    buckets = Buckets(fresh_prefix)
    store = await MinioStore.open(limited, buckets)
    try:
        await store.apply(topology(buckets))
        await store.apply(topology(buckets))
        await store.check()
        about = {"metadata": {}, "content_type": "application/octet-stream"}
        await store.upload(Layer.LANDING, "network_events/big", some_chunks(), **about)
        made = await store.create(Layer.LEDGER, "claims/one.json", b"1", **about)
        assert await store.create(Layer.LEDGER, "claims/one.json", b"2", **about) is None
        assert await store.replace(Layer.LEDGER, "claims/one.json", b"3", etag=made.etag, **about) is not None
        assert await store.head(Layer.LEDGER, "claims/none.json") is None
        assert (await store.read(Layer.LEDGER, "claims/one.json"))[0] == b"3"
        assert [info.key async for info in store.list_objects(Layer.LEDGER)] == ["claims/one.json"]
        await store.remove(Layer.LEDGER, "claims/one.json")
    finally:
        await store.close()


async def test_the_policy_keeps_its_user_out_of_other_buckets(limited, stack, fresh_prefix):
    others = Buckets(f"x{fresh_prefix}")
    owner = await MinioStore.open(stack.minio, others)
    stranger = await MinioStore.open(limited, others)
    try:
        await owner.apply(topology(others))
        with pytest.raises(ConfigurationError):
            await stranger.head(Layer.LEDGER, "claims/one.json")
    finally:
        await owner.close()
        await stranger.close()


async def test_the_doctor_needs_no_more_than_the_policy(limited, fresh_prefix):
    buckets = Buckets(fresh_prefix)
    table = topology(buckets)
    chart = Chart()
    async with await MinioProbe.open(limited, buckets) as store:
        await store.apply(table)
        assert len(await examine_store(chart, store, table)) == len(table.notifications)
    found = {finding.check: finding for finding in chart.findings}
    assert found.pop("notification targets").state is State.SKIPPED  # it would need a bucket that it can remove
    assert {finding.state for finding in found.values()} == {State.OK}


async def test_the_doctor_tells_a_user_without_rights_of_the_policy(limited, fresh_prefix):
    others = Buckets(f"x{fresh_prefix}")
    chart = Chart()
    async with await MinioProbe.open(limited, others) as store:
        await examine_store(chart, store, topology(others))
    [finding] = [finding for finding in chart.findings if finding.check == "store login"]
    assert finding.state is State.FAIL
    assert "has not the rights it needs" in finding.said
    assert "deploy/minio/policy.json" in finding.mend
