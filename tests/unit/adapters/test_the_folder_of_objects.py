"""What only the folder store does: files that a person sees, drops and copies; the lock; the disk's errors."""

import errno
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import polars as pl
import pytest

from acequia.adapters import directory
from acequia.adapters.directory import DirectoryStore
from acequia.errors import ConfigurationError, InputGone, RejectedInput, TransientFailure
from acequia.layers import Buckets, Layer
from acequia.topology import topology

BUCKETS = Buckets("t")
ABOUT = {"metadata": {"a": "1"}, "content_type": "text/csv"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    store = await DirectoryStore.open(tmp_path / "data", BUCKETS)
    await store.apply(topology(BUCKETS))
    yield store
    await store.close()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The folder that is the bucket of RAW."""
    return tmp_path / "data" / "t-raw"


def versions(raw: Path) -> list[Path]:
    return [path for path in (raw.parent / ".objects").rglob("*") if path.is_file()]


async def listed(store: DirectoryStore) -> list[str]:
    return [info.key async for info in store.list_objects(Layer.RAW)]


async def test_an_object_can_be_opened_as_a_file_by_any_tool(store, raw, tmp_path):
    pl.DataFrame({"x": [1, 2]}).write_parquet(tmp_path / "source.parquet")
    await store.put(Layer.RAW, "network_events/date=2025-12-20/x.parquet", tmp_path / "source.parquet", **ABOUT)
    assert pl.read_parquet(raw / "network_events/date=2025-12-20/x.parquet")["x"].to_list() == [1, 2]
    assert pl.scan_parquet(raw / "**/*.parquet").collect().height == 2


async def test_a_copy_of_the_folder_is_a_store_too(store, raw, tmp_path):
    await store.put(Layer.RAW, "a/b/x.csv", b"1", **ABOUT)
    await store.close()
    shutil.copytree(raw.parent, tmp_path / "copy", symlinks=True)
    shutil.rmtree(raw.parent)
    copy = await DirectoryStore.open(tmp_path / "copy", BUCKETS)
    body, info = await copy.read(Layer.RAW, "a/b/x.csv")
    assert (body, info.metadata) == (b"1", {"a": "1"})
    assert (tmp_path / "copy/t-raw/a/b/x.csv").read_bytes() == b"1"
    await copy.close()


async def test_a_file_that_a_person_drops_is_an_object(store, raw, tmp_path):
    (raw / "mine").mkdir()
    (raw / "mine/conn.log").write_bytes(b"first")
    info = await store.head(Layer.RAW, "mine/conn.log")
    assert (info.bytes, info.etag, info.metadata) == (5, hashlib.md5(b"first").hexdigest(), {})
    assert await listed(store) == ["mine/conn.log"]
    got = await store.get(Layer.RAW, "mine/conn.log", tmp_path / "copy", etag=info.etag)
    assert (tmp_path / "copy").read_bytes() == b"first"
    assert got.etag == info.etag
    assert await store.create(Layer.RAW, "mine/conn.log", b"", **ABOUT) is None

    (raw / "mine/conn.log").write_bytes(b"changed")
    assert (await store.head(Layer.RAW, "mine/conn.log")).etag == hashlib.md5(b"changed").hexdigest()
    with pytest.raises(InputGone) as gone:
        await store.get(Layer.RAW, "mine/conn.log", tmp_path / "copy", etag=info.etag)
    assert gone.value.superseded

    await store.put(Layer.RAW, "mine/conn.log", b"ours", **ABOUT)
    assert (await store.read(Layer.RAW, "mine/conn.log"))[0] == b"ours"
    await store.remove(Layer.RAW, "mine/conn.log")
    assert await listed(store) == []


async def test_hidden_files_and_a_persons_links_are_left_alone(store, raw, tmp_path):
    (tmp_path / "secret").write_text("outside")
    (raw / ".x.csv.part").write_text("on its way")
    (raw / "link.csv").symlink_to(tmp_path / "secret")
    (raw / "linked").symlink_to(tmp_path)
    assert await listed(store) == []
    assert await store.head(Layer.RAW, "link.csv") is None
    assert await store.head(Layer.RAW, ".x.csv.part") is None
    with pytest.raises(RejectedInput):
        await store.put(Layer.RAW, "linked/escaped", b"x", **ABOUT)
    assert not (tmp_path / "escaped").exists()


async def test_a_prefix_does_not_lead_out_of_the_bucket(store):
    await store.put(Layer.LEDGER, "x.json", b"1", **ABOUT)
    assert [info.key async for info in store.list_objects(Layer.RAW, "../t-ledger/")] == []
    assert await store.list_folders(Layer.RAW, "../") == []


async def test_a_key_below_another_object_is_refused_and_so_is_a_folder_as_a_key(store):
    await store.put(Layer.RAW, "a", b"1", **ABOUT)
    await store.put(Layer.RAW, "b/c", b"2", **ABOUT)
    for write in (store.put, store.create):
        with pytest.raises(RejectedInput) as refused:
            await write(Layer.RAW, "a/b", b"x", **ABOUT)
        assert refused.value.rule == "bad_key"
        with pytest.raises(RejectedInput) as refused:
            await write(Layer.RAW, "b", b"x", **ABOUT)
        assert refused.value.rule == "bad_key"
    assert await listed(store) == ["a", "b/c"]
    assert (await store.read(Layer.RAW, "a"))[0] == b"1"


async def test_a_folder_in_use_is_refused_and_its_holder_named(store, raw):
    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}"):
        await DirectoryStore.open(raw.parent, BUCKETS)
    await store.close()
    again = await DirectoryStore.open(raw.parent, BUCKETS)
    await again.close()


async def test_nothing_is_left_of_what_was_replaced_or_removed(store, raw):
    first = await store.put(Layer.RAW, "a/x.csv", b"1", **ABOUT)
    await store.put(Layer.RAW, "a/x.csv", b"2", **ABOUT)
    assert await store.create(Layer.RAW, "a/x.csv", b"3", **ABOUT) is None
    assert await store.replace(Layer.RAW, "a/x.csv", b"4", etag=first.etag, **ABOUT) is None
    assert len(versions(raw)) == 2
    await store.remove(Layer.RAW, "a/x.csv")
    assert versions(raw) == []
    assert list((raw.parent / ".pending").iterdir()) == []
    assert list(raw.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.ENOSPC, TransientFailure),
        (errno.EDQUOT, TransientFailure),
        (errno.EIO, TransientFailure),
        (errno.EACCES, ConfigurationError),
        (errno.EROFS, ConfigurationError),
    ],
)
async def test_an_error_of_the_disk_is_named_and_leaves_nothing(store, raw, monkeypatch, number, named):
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    with monkeypatch.context() as patched:
        patched.setattr(directory.os, "fsync", fail)
        with pytest.raises(named) as raised:
            await store.put(Layer.RAW, "x.csv", b"1", **ABOUT)
        with pytest.raises(named):
            await store.upload(Layer.RAW, "x.csv", chunks(), **ABOUT)
    if isinstance(raised.value, TransientFailure):
        assert raised.value.dependency == "disk"
    assert await listed(store) == []
    assert versions(raw) == []
    await store.put(Layer.RAW, "x.csv", b"1", **ABOUT)


async def test_a_write_stands_where_its_event_is_lost(tmp_path, caplog):
    class Away:
        async def publish(self, *_: object) -> None:
            raise TransientFailure("away", dependency="bus", away=True)

    store = await DirectoryStore.open(tmp_path, BUCKETS, Away())
    await store.apply(topology(BUCKETS))
    assert await store.put(Layer.RAW, "x.parquet", b"1", **ABOUT)
    assert await listed(store) == ["x.parquet"]
    assert "s3://t-raw/x.parquet" in caplog.text
    await store.close()


async def test_a_folder_that_was_removed_is_noticed(store, raw):
    await store.check()
    shutil.rmtree(raw.parent)
    with pytest.raises(ConfigurationError):
        await store.check()
