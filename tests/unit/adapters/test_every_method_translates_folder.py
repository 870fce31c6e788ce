"""Whatever the disk says, to whichever call of whichever method of the folder store, comes out as an error of ours.

The methods are found on the adapter, so that a new one cannot be forgotten. Each is run once to count what it asks of
the system; then again for each of these calls, which fails.
"""

import errno
import io
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from acequia.adapters.directory import DirectoryStore
from acequia.errors import AcequiaError, ConfigurationError, TransientFailure
from acequia.layers import Buckets, Layer
from acequia.ports import ObjectStore
from acequia.topology import topology

from .conftest import of_port, public

BUCKETS = Buckets("test")
TEXT = {"metadata": {}, "content_type": "text/plain"}
CALLS = ("open", "lstat", "stat", "scandir", "fsync", "readlink", "rename", "replace", "unlink", "mkdir", "symlink")
"""What is asked of the system, beside reading and writing through open files."""

LATER = (errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EBUSY)
PERSON = (errno.EACCES, errno.EROFS)


async def chunks() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


def calls(store, folder) -> dict[str, Callable[[], Awaitable[object]]]:
    """One call of each method of the port."""
    file = folder / "file"

    async def listed():
        return [info async for info in store.list_objects(Layer.RAW)]

    async def with_its_etag():
        info = await store.head(Layer.RAW, "a/there")
        return await store.replace(Layer.RAW, "a/there", b"new", etag=info.etag, **TEXT)

    return {
        "head": lambda: store.head(Layer.RAW, "a/there"),
        "get": lambda: store.get(Layer.RAW, "a/there", folder / "copy"),
        "read": lambda: store.read(Layer.RAW, "a/there"),
        "put": lambda: store.put(Layer.RAW, "a/there", file, **TEXT),
        "create": lambda: store.create(Layer.RAW, "b/new", b"data", **TEXT),
        "replace": with_its_etag,
        "upload": lambda: store.upload(Layer.RAW, "c/new", chunks(), **TEXT),
        "list_objects": listed,
        "list_folders": lambda: store.list_folders(Layer.RAW),
        "remove": lambda: store.remove(Layer.RAW, "a/there"),
        "apply": lambda: store.apply(topology(BUCKETS)),
        "check": store.check,
        "close": store.close,
    }


METHODS = sorted(public(DirectoryStore) - {"open", "close"})


def test_no_method_is_left_out(tmp_path):
    assert set(calls(SimpleNamespace(check=None, close=None), tmp_path)) == public(DirectoryStore) - {"open"}
    assert public(DirectoryStore) - {"open"} == of_port(ObjectStore)


class Disk:
    """Counts what is asked below `root`, and lets the call number `at` fail."""

    def __init__(self, monkeypatch, root) -> None:
        self.root = str(root)
        self.reset()
        for name in CALLS:
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))
        opened = io.open

        def open_(file, *args, **more):
            self.ask("open", file)
            made = opened(file, *args, **more)
            return self.written(made) if self.ours(file) else made

        monkeypatch.setattr(io, "open", open_)

    def ours(self, path) -> bool:
        return isinstance(path, int) or str(path).startswith(self.root)

    def ask(self, name, path) -> None:
        if self.ours(path):
            self.asked.append(name)
            if len(self.asked) == self.at + 1:
                raise OSError(self.number, os.strerror(self.number), str(path))

    def wrapped(self, name, call):
        def asked(*args, **more):
            if name != "symlink":
                self.ask(name, args[0] if args else self.root)
            else:
                self.ask(name, args[1])
            return call(*args, **more)

        return asked

    def written(self, file):
        """The open file, whose writes are asked for too."""
        if not file.writable():
            return file
        write, disk = file.write, self

        class Written:
            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, data):
                disk.ask("write", disk.root)
                return write(data)

        return Written()

    def reset(self, at=-1, number=errno.EIO) -> None:
        self.asked: list[str] = []
        self.at, self.number = at, number


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is such a place: each call is tried many times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="acequia-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        (Path(name) / "file").write_bytes(b"data")
        yield Path(name)


async def opened(folder: Path) -> DirectoryStore:
    store = await DirectoryStore.open(folder / "store", BUCKETS)
    await store.apply(topology(BUCKETS))
    return store


async def as_before(store: DirectoryStore) -> None:
    await store.put(Layer.RAW, "a/there", b"data", **TEXT)
    await store.remove(Layer.RAW, "b/new")
    await store.remove(Layer.RAW, "c/new")


@pytest.mark.parametrize("method", METHODS)
async def test_every_error_of_the_disk_becomes_ours_and_leaves_the_store_whole(method, monkeypatch, folder):
    store = await opened(folder)
    await as_before(store)
    with monkeypatch.context() as patch:
        disk = Disk(patch, folder / "store")
        await calls(store, folder)[method]()
        count = len(disk.asked)
        assert count >= 1
        for number, at in itertools.product((*LATER, *PERSON), range(count)):
            disk.reset()
            await as_before(store)
            disk.reset(at, number)
            caught: Exception | None = None
            try:
                await calls(store, folder)[method]()
            except AcequiaError as error:
                caught = error
            where = f"{errno.errorcode[number]} in call {at}, {disk.asked[at]}"
            disk.reset()
            expected = ConfigurationError if number in PERSON else TransientFailure
            assert caught is None or isinstance(caught, expected), f"{where}: {caught!r}"
            there = await store.read(Layer.RAW, "a/there")
            assert method == "remove" or (there is not None and there[0] in (b"data", b"new")), where
        await as_before(store)
        await store.close()
    store = await opened(folder)
    await store.close()
    assert list((folder / "store" / ".pending").iterdir()) == []
    left = [path for path in (folder / "store" / ".objects").rglob("*") if path.is_file()]
    assert len(left) == 2, "garbage is left: data and what is about it, of one object, is all there should be"


@pytest.mark.parametrize("method", METHODS)
async def test_a_closed_store_says_so(method, folder):
    store = await opened(folder)
    await store.close()
    with pytest.raises(TransientFailure) as caught:
        await calls(store, folder)[method]()
    assert caught.value.away


async def test_closing_is_quiet_and_may_come_twice(folder):
    store = await opened(folder)
    await store.close()
    await store.close()


async def test_a_file_to_put_that_is_not_there_is_the_callers_mistake(folder):
    store = await opened(folder)
    with pytest.raises(FileNotFoundError):
        await store.put(Layer.RAW, "a", folder / "nowhere", **TEXT)
    await store.close()
