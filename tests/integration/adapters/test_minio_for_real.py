"""What only a real MinIO can show about its adapter; what every store does is in tests/contract."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from miniopy_async.notificationconfig import NotificationConfig, QueueConfig, SuffixFilterRule

from acequia.adapters.minio import EVENTS, MinioStore
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets, Layer
from acequia.topology import topology

pytestmark = pytest.mark.stack
ABOUT = {"metadata": {}, "content_type": "text/plain"}
LAYERS = tuple(Layer)


@pytest.fixture
async def store(stack, fresh_prefix) -> AsyncIterator[MinioStore]:
    buckets = Buckets(fresh_prefix)
    store = await MinioStore.open(stack.minio, buckets)
    await store.apply(topology(buckets))
    yield store
    for layer in LAYERS:
        async for info in store.list_objects(layer):
            await store.remove(layer, info.key)
        await store._client.remove_bucket(buckets.of(layer))
    await store.close()


async def unfinished(store, key):
    """The multipart uploads of `key` that were neither completed nor aborted."""
    found = await store._client._list_multipart_uploads(store._buckets.of(Layer.LANDING), prefix=key)
    return found.uploads


async def test_a_condition_does_not_become_metadata(store):
    await store.create(Layer.RAW, "a", b"1", metadata={"run": "1"}, content_type="text/plain")
    first = await store.head(Layer.RAW, "a")
    await store.replace(Layer.RAW, "a", b"2", etag=first.etag, metadata={"run": "2"}, content_type="text/plain")
    assert (first.metadata, (await store.head(Layer.RAW, "a")).metadata) == ({"run": "1"}, {"run": "2"})


async def test_a_cancelled_upload_leaves_nothing(store):
    sent = asyncio.Event()

    async def endless():
        for _ in range(3):
            yield bytes(8 << 20)
        sent.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(store.upload(Layer.LANDING, "half", endless(), **ABOUT))
    await sent.wait()
    assert len(await unfinished(store, "half")) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await unfinished(store, "half") == []
    assert await store.head(Layer.LANDING, "half") is None


async def test_an_upload_whose_sender_goes_away_leaves_nothing(store):
    async def broken():
        yield bytes(20 << 20)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await store.upload(Layer.LANDING, "half", broken(), **ABOUT)
    assert await unfinished(store, "half") == []


STREAMER = """
import asyncio, sys
from pathlib import Path
from acequia.adapters.minio import MinioStore
from acequia.layers import Buckets, Layer
from acequia.settings import MinioSettings, load

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

async def main(prefix, file):
    store = await MinioStore.open(load(MinioSettings), Buckets(prefix))
    about = dict(metadata={}, content_type="text/plain")
    await store.put(Layer.LANDING, "small", b"x", **about)
    before = peak()

    async def chunks():
        with file.open("rb") as source:
            while chunk := source.read(1 << 18):
                yield chunk

    await store.put(Layer.LANDING, "put", file, **about)
    await store.upload(Layer.LANDING, "upload", chunks(), **about)
    await store.get(Layer.LANDING, "upload", file.with_name("copy"))
    await store.close()
    print(peak() - before)

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak of memory from /proc")
async def test_200_megabytes_go_both_ways_in_constant_memory(stack, store, tmp_path):
    file = tmp_path / "big"
    with file.open("wb") as target:
        for _ in range(200):
            target.write(os.urandom(1 << 20))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", STREAMER, store._buckets.prefix, str(file)],
        env=os.environ | stack.env,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert int(done.stdout) < 60
    assert (tmp_path / "copy").stat().st_size == file.stat().st_size


async def test_other_peoples_notifications_are_kept(stack, store):
    bucket = store._buckets.of(Layer.RAW)
    theirs = QueueConfig(
        store._arn("RAW"), list(EVENTS[:1]), config_id="theirs", suffix_filter_rule=SuffixFilterRule(".theirs")
    )
    await store._client.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[theirs]))
    await store.apply(topology(store._buckets))
    there = await store._client.get_bucket_notification(bucket)
    assert sorted(config.config_id for config in there.queue_config_list) == ["acequia-raw", "theirs"]


async def test_a_second_apply_writes_nothing(store, monkeypatch):
    async def never(*_, **__):
        raise AssertionError("written again")

    monkeypatch.setattr(store._client, "set_bucket_notification", never)
    monkeypatch.setattr(store._client, "make_bucket", never)
    await store.apply(topology(store._buckets))


async def test_services_that_start_at_the_same_time_do_not_disturb_each_other(stack, fresh_prefix):
    buckets = Buckets(f"{fresh_prefix}x")
    stores = [await MinioStore.open(stack.minio, buckets) for _ in range(5)]
    await asyncio.gather(*(store.apply(topology(buckets)) for store in stores))
    there = await stores[0]._client.get_bucket_notification(buckets.of(Layer.MODELS))
    assert [config.config_id for config in there.queue_config_list] == ["acequia-models"]
    for layer in LAYERS:
        await stores[0]._client.remove_bucket(buckets.of(layer))
    for store in stores:
        await store.close()


async def test_a_target_that_minio_does_not_know_is_told_with_its_variables(stack, fresh_prefix):
    buckets = Buckets(fresh_prefix)
    settings = stack.minio.model_copy(update={"arn": "arn:minio:sqs:{region}:UNKNOWN-{target}:amqp"})
    store = await MinioStore.open(settings, buckets)
    with pytest.raises(ConfigurationError, match="MINIO_NOTIFY_AMQP_"):
        await store.apply(topology(buckets))
    for layer in LAYERS:
        await store._client.remove_bucket(buckets.of(layer))
    await store.close()


@pytest.mark.parametrize("wrong", [{"access_key": "nobody"}, {"secret_key": "wrong-secret"}])
async def test_wrong_credentials_are_a_configuration_error(stack, wrong):
    settings = type(stack.minio)(**(stack.minio.model_dump() | wrong))
    store = await MinioStore.open(settings, Buckets())
    for call in (store.check(), store.read(Layer.LEDGER, "x"), store.put(Layer.LEDGER, "x", b"", **ABOUT)):
        with pytest.raises(ConfigurationError, match="MINIO_ACCESS_KEY"):
            await call
    await store.close()


async def test_a_bucket_that_someone_removed_is_told_and_made_again(store):
    bucket = store._buckets.of(Layer.LEDGER)
    await store._client.remove_bucket(bucket)
    for call in (store.check(), store.head(Layer.LEDGER, "x"), store.put(Layer.LEDGER, "x", b"", **ABOUT)):
        with pytest.raises(ConfigurationError, match=bucket):
            await call
    await store.apply(topology(store._buckets))
    await store.check()


async def test_a_minio_that_goes_away_and_comes_back(stack, store, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    await store.put(Layer.RAW, "a", file, **ABOUT)
    stack.stop_one("minio", kill=True)
    for call in (store.check, lambda: store.head(Layer.RAW, "a"), lambda: store.put(Layer.RAW, "b", file, **ABOUT)):
        with pytest.raises(TransientFailure) as caught:
            await call()
        assert caught.value.away
    stack.start_one("minio")
    written = await store.put(Layer.RAW, "b", file, **ABOUT)
    assert (await store.head(Layer.RAW, "a")).etag == written.etag
