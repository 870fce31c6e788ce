"""The behaviour of `acequia.ports.ObjectStore`, on each adapter."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from acequia.errors import InputGone, RejectedInput
from acequia.events import META_DATASET, META_RUN_ID
from acequia.layers import Layer

JSON = "application/json"
METADATA = {META_RUN_ID: "5f0c4b4e-3c60-4f5e-9a51-1a2b3c4d5e6f", META_DATASET: "network_events", "plus": "a+b %41=&c"}
ODD_KEYS = [
    "with space.csv",
    "plus+sign.csv",
    "ümläut.csv",
    "emoji😀.csv",
    "日本語/ログ.csv",
    "100%.csv",
    "a%20b%2Fc.csv",
    "q?x=1&y=2.csv",
    "hash#.csv",
    "network_events/date=2025-12-20/x.csv",
    "quote'\".csv",
    "semi;colon:comma,at@.csv",
    "back\\slash.csv",
    "[brackets]{*}.csv",
    ".hidden",
    "a/..b/...c",
    "~tilde",
    "no suffix",
    "many.dots.in.the.name.csv.gz",
    "x" * 255,
    "k" * 200 + "/" + "v" * 200,
]
REFUSED_KEYS = [
    "a/../b",
    "../outside",
    "./a",
    "a/.",
    "..",
    "a//b",
    "/a",
    "",
    "x" * 256,
    ("k" * 200 + "/") * 5 + "k" * 20,
]


async def everything(world, layer=Layer.RAW, prefix="", **arguments):
    return [info async for info in world.store.list_objects(layer, prefix, **arguments)]


async def put(world, key, data=b"data", layer=Layer.RAW, metadata=None):
    return await world.store.put(layer, key, data, metadata=metadata or {}, content_type="text/csv")


async def test_an_object_comes_back_as_it_was_written(world, tmp_path):
    before = datetime.now(UTC) - timedelta(seconds=2)
    written = await put(world, "folder/x.csv", b"1,2\n", metadata=METADATA)
    assert (written.layer, written.key, written.bytes) == (Layer.RAW, "folder/x.csv", 4)
    assert written.uri == f"s3://{world.buckets.of(Layer.RAW)}/folder/x.csv"
    assert written.etag == hashlib.md5(b"1,2\n").hexdigest()

    head = await world.store.head(Layer.RAW, "folder/x.csv")
    body, read = await world.store.read(Layer.RAW, "folder/x.csv")
    got = await world.store.get(Layer.RAW, "folder/x.csv", tmp_path / "copy")
    assert body == b"1,2\n"
    assert (tmp_path / "copy").read_bytes() == b"1,2\n"
    for info in (head, read, got):
        assert (info.key, info.uri, info.etag, info.bytes) == (written.key, written.uri, written.etag, 4)
        assert info.metadata == METADATA
        assert before <= info.last_modified <= datetime.now(UTC) + timedelta(seconds=2)


async def test_a_file_is_stored_with_its_whole_content(world, tmp_path):
    content = bytes(range(256)) * 20_000  # 5 MB
    (tmp_path / "source.parquet").write_bytes(content)
    written = await put(world, "x.parquet", tmp_path / "source.parquet")
    assert written.bytes == len(content)
    await world.store.get(Layer.RAW, "x.parquet", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (tmp_path / "source.parquet").read_bytes() == content


async def test_an_empty_object_is_an_object(world, tmp_path):
    written = await put(world, "empty.csv", b"")
    assert written.bytes == 0
    assert await world.store.create(Layer.RAW, "empty.csv", b"x", metadata={}, content_type=JSON) is None
    assert (await world.store.read(Layer.RAW, "empty.csv"))[0] == b""
    await world.store.get(Layer.RAW, "empty.csv", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b""


async def test_what_is_not_there_is_none_or_gone(world, tmp_path):
    assert await world.store.head(Layer.RAW, "nothing/here") is None
    assert await world.store.read(Layer.RAW, "nothing/here") is None
    with pytest.raises(InputGone) as gone:
        await world.store.get(Layer.RAW, "nothing/here", tmp_path / "copy")
    assert not gone.value.superseded
    with pytest.raises(InputGone) as gone:
        await world.store.get(Layer.RAW, "nothing/here", tmp_path / "copy", etag="0" * 32)
    assert not gone.value.superseded


async def test_a_folder_of_objects_is_no_object(world):
    await put(world, "folder/x.csv")
    assert await world.store.head(Layer.RAW, "folder") is None
    assert await world.store.read(Layer.RAW, "folder") is None


async def test_put_replaces_what_was_there_with_its_metadata(world):
    await put(world, "x.csv", b"old", metadata={"a": "1", "b": "2"})
    await put(world, "x.csv", b"newer", metadata={"a": "3"})
    body, info = await world.store.read(Layer.RAW, "x.csv")
    assert (body, info.metadata, info.bytes) == (b"newer", {"a": "3"}, 5)
    assert [o.key for o in await everything(world)] == ["x.csv"]


async def test_get_with_an_etag_gives_that_version_or_says_that_it_was_replaced(world, tmp_path):
    old = await put(world, "x.csv", b"old")
    assert (await world.store.get(Layer.RAW, "x.csv", tmp_path / "a", etag=old.etag)).etag == old.etag
    await put(world, "x.csv", b"new")
    with pytest.raises(InputGone) as gone:
        await world.store.get(Layer.RAW, "x.csv", tmp_path / "b", etag=old.etag)
    assert gone.value.superseded
    await world.store.remove(Layer.RAW, "x.csv")
    with pytest.raises(InputGone) as gone:
        await world.store.get(Layer.RAW, "x.csv", tmp_path / "c", etag=old.etag)
    assert not gone.value.superseded


async def test_of_eight_that_create_at_once_one_wins(world):
    async def create(n):
        return await world.store.create(
            Layer.LEDGER, "claims/one.json", b"%d" % n, metadata={"by": str(n)}, content_type=JSON
        )

    results = await asyncio.gather(*(create(n) for n in range(8)))
    winners = [n for n, info in enumerate(results) if info is not None]
    assert len(winners) == 1
    body, info = await world.store.read(Layer.LEDGER, "claims/one.json")
    assert (body, info.metadata) == (b"%d" % winners[0], {"by": str(winners[0])})


async def test_a_second_create_of_the_same_key_gives_none_and_changes_nothing(world):
    first = await world.store.create(Layer.LEDGER, "x.json", b"first", metadata={"a": "1"}, content_type=JSON)
    assert first is not None
    assert await world.store.create(Layer.LEDGER, "x.json", b"second", metadata={}, content_type=JSON) is None
    body, info = await world.store.read(Layer.LEDGER, "x.json")
    assert (body, info.metadata, info.etag) == (b"first", {"a": "1"}, first.etag)


async def test_a_removed_key_can_be_created_again(world):
    assert await world.store.create(Layer.LEDGER, "a/x.json", b"1", metadata={}, content_type=JSON)
    await world.store.remove(Layer.LEDGER, "a/x.json")
    assert await world.store.create(Layer.LEDGER, "a/x.json", b"2", metadata={}, content_type=JSON)
    assert (await world.store.read(Layer.LEDGER, "a/x.json"))[0] == b"2"


async def test_a_file_can_be_created_too(world, tmp_path):
    (tmp_path / "source").write_bytes(b"from a file")
    assert await world.store.create(Layer.RAW, "x.parquet", tmp_path / "source", metadata=METADATA, content_type=JSON)
    body, info = await world.store.read(Layer.RAW, "x.parquet")
    assert (body, info.metadata) == (b"from a file", METADATA)


async def test_replace_needs_the_current_etag(world):
    old = await world.store.create(Layer.LEDGER, "x.json", b"1", metadata={}, content_type=JSON)
    new = await world.store.replace(Layer.LEDGER, "x.json", b"2", etag=old.etag, metadata={"n": "2"}, content_type=JSON)
    assert new is not None
    stale = await world.store.replace(Layer.LEDGER, "x.json", b"3", etag=old.etag, metadata={}, content_type=JSON)
    assert stale is None
    body, info = await world.store.read(Layer.LEDGER, "x.json")
    assert (body, info.etag, info.metadata) == (b"2", new.etag, {"n": "2"})


async def test_replace_of_what_is_not_there_gives_none(world):
    etag = hashlib.md5(b"").hexdigest()
    assert await world.store.replace(Layer.LEDGER, "no.json", b"", etag=etag, metadata={}, content_type=JSON) is None
    assert await world.store.head(Layer.LEDGER, "no.json") is None


async def test_of_six_that_replace_the_same_version_at_once_one_wins(world):
    old = await world.store.create(Layer.LEDGER, "champion.json", b"old", metadata={}, content_type=JSON)

    async def replace(n):
        return await world.store.replace(
            Layer.LEDGER, "champion.json", b"%d" % n, etag=old.etag, metadata={"by": str(n)}, content_type=JSON
        )

    results = await asyncio.gather(*(replace(n) for n in range(6)))
    winners = [n for n, info in enumerate(results) if info is not None]
    assert len(winners) == 1
    body, info = await world.store.read(Layer.LEDGER, "champion.json")
    assert (body, info.metadata) == (b"%d" % winners[0], {"by": str(winners[0])})


async def test_readers_see_one_version_whole_while_others_write(world, tmp_path):
    versions = {f"{n}".encode() * 200_000: str(n) for n in range(4)}

    async def write():
        for _ in range(5):
            for body, name in versions.items():
                await put(world, "busy.csv", body, metadata={"version": name})

    await put(world, "busy.csv", next(iter(versions)), metadata={"version": "0"})
    writing = asyncio.create_task(write())
    seen = 0
    while not writing.done() or seen < 3:
        body, info = await world.store.read(Layer.RAW, "busy.csv")
        assert versions[body] == info.metadata["version"]
        assert info.etag == hashlib.md5(body).hexdigest()
        got = await world.store.get(Layer.RAW, "busy.csv", tmp_path / "copy")
        assert versions[(tmp_path / "copy").read_bytes()] == got.metadata["version"]
        seen += 1
    await writing


@pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key[:30]))
async def test_an_odd_key_is_kept_as_it_is(world, tmp_path, key):
    await put(world, key, key.encode(), layer=Layer.LANDING, metadata={META_DATASET: "network_events"})
    body, info = await world.store.read(Layer.LANDING, key)
    assert (body, info.key) == (key.encode(), key)
    assert (await world.store.head(Layer.LANDING, key)).metadata == {META_DATASET: "network_events"}
    await world.store.get(Layer.LANDING, key, tmp_path / "copy", etag=info.etag)
    assert [o.key for o in await everything(world, Layer.LANDING)] == [key]
    assert [o.key for o in await everything(world, Layer.LANDING, key[:-1])] == [key]
    (event,) = await world.told(1)
    assert (event.key, event.etag, event.size or 0) == (key, info.etag, len(key.encode()))
    assert await world.store.create(Layer.LANDING, key, b"", metadata={}, content_type=JSON) is None
    await world.store.remove(Layer.LANDING, key)
    assert await world.store.head(Layer.LANDING, key) is None


@pytest.mark.parametrize("key", REFUSED_KEYS, ids=lambda key: ascii(key[:30]))
async def test_a_key_that_cannot_be_kept_is_refused(world, tmp_path, key):
    with pytest.raises(RejectedInput) as refused:
        await put(world, key)
    assert refused.value.rule == "bad_key"
    with pytest.raises(RejectedInput):
        await world.store.create(Layer.RAW, key, b"", metadata={}, content_type=JSON)
    with pytest.raises(RejectedInput):
        await world.store.get(Layer.RAW, key, tmp_path / "copy")
    with pytest.raises(RejectedInput):
        await world.store.remove(Layer.RAW, key)
    assert await everything(world) == []


@pytest.mark.parametrize("value", ["ümlaut", "two\nlines", " padded "])
async def test_metadata_that_no_header_carries_is_a_mistake_of_the_caller(world, value):
    with pytest.raises(ValueError, match="metadata"):
        await put(world, "x.csv", metadata={"name": value})
    assert await world.store.head(Layer.RAW, "x.csv") is None


async def test_metadata_of_two_kilobytes_is_carried(world):
    metadata = {"acequia-record": "r" * 1900, META_RUN_ID: "5f0c4b4e-3c60-4f5e-9a51-1a2b3c4d5e6f"}
    await put(world, "x.parquet", metadata=metadata)
    assert (await world.store.head(Layer.RAW, "x.parquet")).metadata == metadata
    (event,) = await world.told(1)
    assert event.metadata.items() >= metadata.items()


async def test_names_of_metadata_come_back_in_lower_case(world):
    await put(world, "x.csv", metadata={"Acequia-Dataset": "Network"})
    assert (await world.store.head(Layer.RAW, "x.csv")).metadata == {"acequia-dataset": "Network"}


async def test_a_listing_is_in_the_order_of_the_keys_bytes(world):
    keys = ["a-/x", "a/x", "a/y", "a0", "ab/c/d", "ab/c-d", "ab/c.d", "ab0", "B", "z", "é", "ﬀ", "😀", "😀b"]
    await asyncio.gather(*(put(world, key) for key in keys))
    listed = await everything(world)
    assert [o.key for o in listed] == sorted(keys, key=str.encode)
    for info in listed:
        assert info.etag == hashlib.md5(b"data").hexdigest()
        assert (info.bytes, info.metadata) == (4, {})
        assert info.uri == world.buckets.uri(Layer.RAW, info.key)
        assert datetime.now(UTC) - info.last_modified < timedelta(minutes=5)


async def test_a_listing_begins_at_its_prefix_and_after_its_start(world):
    keys = ["a/1", "a/2", "a/b/1", "a/b/2", "a/b0", "ab/1", "b"]
    await asyncio.gather(*(put(world, key) for key in keys))

    async def listed(*arguments, **more):
        return [o.key for o in await everything(world, Layer.RAW, *arguments, **more)]

    assert await listed("a/") == ["a/1", "a/2", "a/b/1", "a/b/2", "a/b0"]
    assert await listed("a") == ["a/1", "a/2", "a/b/1", "a/b/2", "a/b0", "ab/1"]
    assert await listed("a/b") == ["a/b/1", "a/b/2", "a/b0"]
    assert await listed("a/b/") == ["a/b/1", "a/b/2"]
    assert await listed("a/b/2") == ["a/b/2"]
    assert await listed("nothing/") == []
    assert await listed("b/") == []
    for at, key in enumerate(keys):
        assert await listed(start_after=key) == keys[at + 1 :]
    assert await listed("a/", start_after="a/2") == ["a/b/1", "a/b/2", "a/b0"]
    assert await listed("a/b/", start_after="a/2") == ["a/b/1", "a/b/2"]
    assert await listed("a/", start_after="a/b") == ["a/b/1", "a/b/2", "a/b0"]
    assert await listed("a/", start_after="a/b/") == ["a/b/1", "a/b/2", "a/b0"]
    assert await listed("a/", start_after="a/b/1") == ["a/b/2", "a/b0"]
    assert await listed("a/", start_after="b") == []
    assert await listed("a/", start_after="A") == ["a/1", "a/2", "a/b/1", "a/b/2", "a/b0"]


async def test_a_long_listing_is_whole(world):
    keys = [f"date=2025-12-{1 + n % 28:02}/{n:05}.parquet" for n in range(1100)]
    for at in range(0, len(keys), 50):
        await asyncio.gather(*(put(world, key, b"x", layer=Layer.LEDGER) for key in keys[at : at + 50]))
    assert [o.key for o in await everything(world, Layer.LEDGER)] == sorted(keys)


async def test_a_listing_can_be_left_early(world):
    await asyncio.gather(*(put(world, f"{n}") for n in range(5)))
    async for info in world.store.list_objects(Layer.RAW):
        assert info.key == "0"
        break
    assert len(await everything(world)) == 5


async def test_list_folders_gives_each_next_prefix_once(world):
    for key in ("a/1", "a/2", "a/b/1", "ab/1", "b/c/d", "file"):
        await put(world, key)
    folders = world.store.list_folders
    assert await folders(Layer.RAW) == ["a/", "ab/", "b/"]
    assert await folders(Layer.RAW, "a") == ["a/", "ab/"]
    assert await folders(Layer.RAW, "a/") == ["a/b/"]
    assert await folders(Layer.RAW, "b/") == ["b/c/"]
    assert await folders(Layer.RAW, "nothing/") == []
    await world.store.remove(Layer.RAW, "b/c/d")
    assert await folders(Layer.RAW) == ["a/", "ab/"]


async def test_the_layers_are_apart(world):
    await put(world, "x", b"raw")
    await put(world, "x", b"ledger", layer=Layer.LEDGER)
    await world.store.remove(Layer.RAW, "x")
    assert (await world.store.read(Layer.LEDGER, "x"))[0] == b"ledger"
    assert await everything(world) == []


async def test_removing_twice_is_no_error(world):
    await put(world, "a/b/x.csv")
    await put(world, "a/y.csv")
    await world.store.remove(Layer.RAW, "a/b/x.csv")
    await world.store.remove(Layer.RAW, "a/b/x.csv")
    await world.store.remove(Layer.RAW, "never/was/there")
    assert await world.store.head(Layer.RAW, "a/b/x.csv") is None
    assert [o.key for o in await everything(world)] == ["a/y.csv"]


MEGABYTE = b"0123456789abcdef" * 65536


async def chunks(count, then=None):
    for n in range(count):
        yield MEGABYTE
        if n % 3 == 0:
            yield b""
            yield b"odd"
    if then is not None:
        raise then


@pytest.mark.parametrize("count", [0, 1, 19])
async def test_a_stream_is_stored_whole(world, tmp_path, count):
    expected = b"".join([chunk async for chunk in chunks(count)])
    written = await world.store.upload(
        Layer.LANDING, "up/x.csv", chunks(count), metadata=METADATA, content_type="text/csv"
    )
    assert written.bytes == len(expected)
    got = await world.store.get(Layer.LANDING, "up/x.csv", tmp_path / "copy", etag=written.etag)
    assert (tmp_path / "copy").read_bytes() == expected
    assert got.metadata == METADATA
    (event,) = await world.told(1)
    assert (event.key, event.etag, event.size or 0) == ("up/x.csv", written.etag, len(expected))
    assert event.metadata[META_RUN_ID] == METADATA[META_RUN_ID]


async def test_a_stream_of_exactly_some_parts_is_stored_whole(world, tmp_path):
    async def even():
        for _ in range(16):
            yield MEGABYTE

    await world.store.upload(Layer.LANDING, "x.csv", even(), metadata={}, content_type="text/csv")
    await world.store.get(Layer.LANDING, "x.csv", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == MEGABYTE * 16


@pytest.mark.parametrize("megabytes", [1, 18])
async def test_a_stream_that_breaks_off_leaves_nothing(world, megabytes):
    with pytest.raises(ConnectionResetError):
        await world.store.upload(
            Layer.LANDING,
            "up/x.csv",
            chunks(megabytes, ConnectionResetError("the client went away")),
            metadata={},
            content_type="text/csv",
        )
    assert await world.store.head(Layer.LANDING, "up/x.csv") is None
    assert await everything(world, Layer.LANDING) == []
    assert await world.store.list_folders(Layer.LANDING) == []
    await put(world, "next.csv", layer=Layer.LANDING)
    assert [event.key for event in await world.told(1)] == ["next.csv"]


async def test_a_stream_that_breaks_off_leaves_the_old_object_alone(world):
    await put(world, "x.csv", b"old", layer=Layer.LANDING)
    with pytest.raises(ConnectionResetError):
        await world.store.upload(
            Layer.LANDING, "x.csv", chunks(2, ConnectionResetError()), metadata={}, content_type="text/csv"
        )
    assert (await world.store.read(Layer.LANDING, "x.csv"))[0] == b"old"


async def test_a_stream_that_is_cancelled_leaves_nothing(world):
    under_way = asyncio.Event()

    async def endless():
        for _ in range(18):
            yield MEGABYTE
        under_way.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(
        world.store.upload(Layer.LANDING, "x.csv", endless(), metadata={}, content_type="text/csv")
    )
    await under_way.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await world.store.head(Layer.LANDING, "x.csv") is None
    assert await everything(world, Layer.LANDING) == []


async def test_a_write_tells_the_bus_what_came(world):
    written = await put(world, "network_events/date=2025-12-20/a b+c.parquet", b"12345", metadata=METADATA)
    (event,) = await world.told(1)
    assert (event.layer, event.bucket, event.key) == (Layer.RAW, world.buckets.of(Layer.RAW), written.key)
    assert (event.etag, event.size, event.uri) == (written.etag, 5, written.uri)
    assert event.metadata[META_RUN_ID] == METADATA[META_RUN_ID]
    assert event.metadata[META_DATASET] == "network_events"


async def test_each_kind_of_write_tells_the_bus(world, tmp_path):
    store = world.store
    created = await store.create(Layer.LANDING, "created", b"1", metadata={}, content_type=JSON)
    await store.replace(Layer.LANDING, "created", b"2", etag=created.etag, metadata={}, content_type=JSON)
    await store.upload(Layer.LANDING, "uploaded", chunks(1), metadata={}, content_type=JSON)
    await store.put(Layer.LANDING, "put", b"", metadata={}, content_type=JSON)
    events = await world.told(4)
    assert sorted(event.key for event in events) == ["created", "created", "put", "uploaded"]


async def test_only_the_model_card_tells_the_bus_of_a_model(world):
    for name in ("model-3fa9c1.skops", "champion.json", "model.json"):
        await put(world, f"network_events/{name}", layer=Layer.MODELS)
    await put(world, "notes.txt")
    await put(world, "part.parquet")
    events = await world.told(2)
    assert sorted(event.key for event in events) == ["network_events/model.json", "part.parquet"]


async def test_writes_that_change_nothing_and_layers_without_readers_are_silent(world):
    await put(world, "x.json", layer=Layer.LEDGER)
    await world.store.create(Layer.LANDING, "x", b"1", metadata={}, content_type=JSON)
    await world.store.create(Layer.LANDING, "x", b"2", metadata={}, content_type=JSON)
    await world.store.replace(Layer.LANDING, "x", b"3", etag="0" * 32, metadata={}, content_type=JSON)
    await world.store.remove(Layer.LANDING, "x")
    await put(world, "last", layer=Layer.LANDING)
    events = await world.told(2)
    assert sorted(event.key for event in events) == ["last", "x"]


async def test_a_store_that_answers_checks_well(world):
    await world.store.check()


async def test_a_read_that_fails_leaves_no_file(world, tmp_path):
    await put(world, "x.csv")
    with pytest.raises(InputGone):
        await world.store.get(Layer.RAW, "y.csv", tmp_path / "y.csv")
    with pytest.raises(InputGone):
        await world.store.get(Layer.RAW, "x.csv", tmp_path / "x.csv", etag="0" * 32)
    assert not (tmp_path / "x.csv").exists()
    assert not (tmp_path / "y.csv").exists()
