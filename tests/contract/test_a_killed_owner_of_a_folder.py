"""The folder store, killed and opened again: each object is whole with its metadata or not there; no garbage stays."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.layers import Buckets, Layer

CHILD = """
import asyncio, hashlib, os, signal, sys, threading
from pathlib import Path
from acequia.adapters import directory
from acequia.layers import Buckets, Layer

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def about(body):
    return {"metadata": {"sha256": hashlib.sha256(body).hexdigest()}, "content_type": "text/plain"}

def before(owner, name):
    setattr(owner, name, die)

def after(owner, name):
    real = getattr(owner, name)
    def wrapped(*args, **kwargs):
        real(*args, **kwargs)
        die()
    setattr(owner, name, wrapped)

POINTS = {
    "while the data is written": lambda: after(directory._Draft, "write"),
    "before the version is whole": lambda: before(directory._Draft, "finish"),
    "before anything is synced": lambda: before(directory.os, "fsync"),
    "before the version is published": lambda: before(directory._Folder, "_link"),
    "after the version is published": lambda: after(directory._Folder, "_link"),
    "before the link's folder is synced": lambda: before(directory._Folder, "_sync_place"),
    "before the old version is dropped": lambda: before(directory._Folder, "_drop"),
    "after the old version is dropped": lambda: after(directory._Folder, "_drop"),
    "before the mark is taken away": lambda: before(directory._Folder, "unmark"),
}

async def at(root, point, act):
    store = await directory.DirectoryStore.open(root, Buckets())
    old = await store.put(Layer.RAW, "a/old.csv", b"old", **about(b"old"))
    POINTS[point]()
    if act == "put":
        await store.put(Layer.RAW, "a/old.csv", b"new", **about(b"new"))
    elif act == "replace":
        await store.replace(Layer.RAW, "a/old.csv", b"new", etag=old.etag, **about(b"new"))
    elif act == "create":
        await store.create(Layer.RAW, "a/b/new.csv", b"new", **about(b"new"))
    elif act == "upload":
        async def chunks():
            yield b"n"
            yield b"ew"
        await store.upload(Layer.RAW, "a/old.csv", chunks(), **about(b"new"))
    else:
        await store.remove(Layer.RAW, "a/old.csv")

async def loop(root, start):
    store = await directory.DirectoryStore.open(root, Buckets())
    async def work(lane):
        n = int(start)
        while True:
            body = f"{lane} {n} ".encode() * (1 + n % 7 * 5000)
            await store.create(Layer.RAW, f"kept/{lane}/{n}.csv", body, **about(body))
            print(f"kept/{lane}/{n}.csv", flush=True)
            await store.put(Layer.RAW, f"changed/{n % 5}.csv", body, **about(body))
            await store.remove(Layer.RAW, f"changed/{(n + 2) % 5}.csv")
            n += 1
    await asyncio.gather(*(work(lane) for lane in range(4)))

async def overtaken(root):
    # the first writer has published and not yet come to its end when the second one replaces what it wrote
    store = await directory.DirectoryStore.open(root, Buckets())
    published, dropping, ended = threading.Event(), threading.Event(), threading.Event()
    sync = directory._Folder._sync_place
    def slowly(self, place):
        sync(self, place)
        if not published.is_set():
            published.set()
            dropping.wait()
    def half(self, version):
        dropping.set()
        ended.wait()
        version.data.unlink()
        die()
    directory._Folder._sync_place, directory._Folder._drop = slowly, half
    async def first():
        await store.put(Layer.RAW, "a/old.csv", b"old", **about(b"old"))
        ended.set()
    async def second():
        await asyncio.to_thread(published.wait)
        await store.put(Layer.RAW, "a/old.csv", b"new", **about(b"new"))
    await asyncio.gather(first(), second())

mode, root, *rest = sys.argv[1:]
asyncio.run({"at": at, "loop": loop, "overtaken": overtaken}[mode](Path(root), *rest))
"""


async def whole_objects(root: Path) -> dict[str, bytes]:
    """Open the folder; what lies in it, after checking that it is whole and that nothing else is there."""
    store = await DirectoryStore.open(root, Buckets())
    found = {}
    try:
        async for listed in store.list_objects(Layer.RAW):
            body, info = await store.read(Layer.RAW, listed.key)
            assert info.metadata == {"sha256": hashlib.sha256(body).hexdigest()}
            assert info.etag == listed.etag == hashlib.md5(body).hexdigest()
            found[listed.key] = body
    finally:
        await store.close()
    assert list((root / ".pending").iterdir()) == []
    versions = [path for path in (root / ".objects").rglob("*") if path.is_file()]
    assert len(versions) == 2 * len(found), "a version and what is about it, for each object, and nothing else"
    return found


POINTS = [
    "while the data is written",
    "before the version is whole",
    "before anything is synced",
    "before the version is published",
    "after the version is published",
    "before the link's folder is synced",
    "before the old version is dropped",
    "after the old version is dropped",
    "before the mark is taken away",
]
CASES = [(point, "put") for point in POINTS] + [
    ("before the version is published", "replace"),
    ("after the version is published", "replace"),
    ("before the version is published", "create"),
    ("after the version is published", "create"),
    ("while the data is written", "upload"),
    ("after the version is published", "upload"),
    ("before the old version is dropped", "remove"),
    ("before the mark is taken away", "remove"),
]


@pytest.mark.parametrize(("point", "act"), CASES)
async def test_killed_at(tmp_path, point, act):
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, "at", str(tmp_path), point, act)
    assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
    found = await whole_objects(tmp_path)
    published = not point.startswith("while") and point not in POINTS[1:4]
    expected = {
        "create": {"a/old.csv": b"old"} | ({"a/b/new.csv": b"new"} if published else {}),
        "remove": {},
    }.get(act, {"a/old.csv": b"new" if published else b"old"})
    assert found == expected


async def test_killed_while_it_drops_a_version_whose_writer_has_just_ended(tmp_path):
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, "overtaken", str(tmp_path))
    assert await asyncio.wait_for(child.wait(), 60) == -signal.SIGKILL
    assert await whole_objects(tmp_path) == {"a/old.csv": b"new"}


async def test_killed_again_and_again_while_it_writes(tmp_path):
    rolls = random.Random(7)
    acknowledged: set[str] = set()
    for round_ in range(3):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, "loop", str(tmp_path), str(round_ * 10_000), stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        for _ in range(rolls.randrange(10, 40)):
            acknowledged.add((await asyncio.wait_for(child.stdout.readline(), 30)).decode().strip())
        os.kill(child.pid, signal.SIGKILL)
        rest, _ = await child.communicate()
        acknowledged.update(line.decode() for line in rest.split(b"\n")[:-1])
        found = await whole_objects(tmp_path)
        assert acknowledged <= found.keys()
