"""A folder as the object store: what the embedded mode keeps its objects in.

    <root>/<bucket>/<key>                      a relative symbolic link to the current version
    <root>/.objects/<day>/<id>.<etag><suffix>  the data of a version; it never changes
    <root>/.objects/<day>/<id>.about.json      its key, metadata and content type, beside it
    <root>/.pending/<day>.<id>                 this version may be garbage: it is being written
    <root>/.pending/<day>.<id>.old             it was replaced or removed; each of the two marks has one writer
    <root>/.lock                               held by the one process that owns the folder

The link is the whole of a publication: data and metadata are on the disk before it is made, so an object is there
whole or not at all. Any tool can read `<root>/<bucket>/<key>`, and `cp -a` gives a working copy. A regular file that
a person drops below `<bucket>/` is an object too (no metadata); hidden ones are left alone, since copying tools use
them on their way.

A crash leaves at most versions that `.pending` names; they are removed at the next start. (After a power failure a
name in `.pending` may be missing too: that costs disk space, nothing else.)
"""

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from acequia.adapters.telling import Teller
from acequia.errors import ConfigurationError, InputGone, RejectedInput, TransientFailure
from acequia.events import METADATA_LIMIT, metadata_size
from acequia.layers import Buckets, Layer, check_key
from acequia.ports import Bus, ObjectInfo
from acequia.topology import Topology

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK = 1 << 20
_LISTED_AT_ONCE = 256
_REMEMBERED_ETAGS = 4096
_VERSION = re.compile(
    r"\.objects/(?P<day>\d{4}-\d\d-\d\d)/(?P<id>[0-9a-f]{32})\.(?P<etag>[0-9a-f]{32})(?P<suffix>[^/]*)$"
)
_MARK = re.compile(r"^(?P<day>\d{4}-\d\d-\d\d)\.(?P<id>[0-9a-f]{32})(\.old)?$")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9_-]{1,16}){1,2}$")

_FOR_A_PERSON = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISTAKES = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
"""Of ours or of the caller's: a file to put that is not there. All else the disk says may be otherwise later."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What lies at a key now. `id` is None for a file that a person dropped."""

    data: Path
    etag: str
    bytes: int
    modified: float
    day: str = ""
    id: str | None = None


class DirectoryStore:
    """`acequia.ports.ObjectStore` in a folder that one process owns."""

    def __init__(self, folder: "_Folder", buckets: Buckets, bus: Bus | None) -> None:
        self._folder = folder
        self._buckets = buckets
        self._teller = None if bus is None else Teller(bus, buckets)
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="directory")
        self._closed = False

    @classmethod
    async def open(cls, root: Path, buckets: Buckets, bus: Bus | None = None) -> "DirectoryStore":
        """Take the folder `root` (made where it is missing). Events go to the exchange OBJECTS of `bus`.

        Raises ConfigurationError where another process owns the folder, and names it.
        """
        if "/" in buckets.prefix or buckets.prefix.startswith("."):
            raise ConfigurationError(f"bucket prefix {buckets.prefix!r}: no slash, and no dot at the front")

        def take() -> _Folder:
            with _translated():
                return _Folder(root)

        return cls(await asyncio.to_thread(take), buckets, bus)

    async def head(self, layer: Layer, key: str) -> ObjectInfo | None:
        return await self._run(self._head, layer, key)

    async def get(self, layer: Layer, key: str, to: Path, *, etag: str | None = None) -> ObjectInfo:
        return await self._run(self._get, layer, key, to, etag)

    async def read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        return await self._run(self._read, layer, key)

    async def put(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo:
        info = await self._run(self._write, layer, key, data, metadata, content_type)
        assert info is not None
        await self._emit(info)
        return info

    async def create(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo | None:
        info = await self._run(self._write, layer, key, data, metadata, content_type, create=True)
        if info is not None:
            await self._emit(info)
        return info

    async def replace(
        self,
        layer: Layer,
        key: str,
        data: bytes,
        *,
        etag: str,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo | None:
        info = await self._run(self._write, layer, key, data, metadata, content_type, etag=etag)
        if info is not None:
            await self._emit(info)
        return info

    async def upload(
        self,
        layer: Layer,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo:
        place = self._place(layer, key)
        about = _about(place, key, metadata, content_type)
        draft = _Draft(self._folder, key)
        try:
            await self._run(draft.begin)
            gathered = bytearray()
            async for chunk in chunks:
                gathered += chunk
                if len(gathered) >= _CHUNK:
                    await self._run(draft.write, bytes(gathered))
                    gathered.clear()
            await self._run(draft.write, bytes(gathered))
            found = await self._run(self._folder.publish, draft, place, about)
        except BaseException:
            draft.discard()
            raise
        assert found is not None
        info = self._info(layer, key, found, about.metadata)
        await self._emit(info)
        return info

    async def list_objects(self, layer: Layer, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        walk = self._folder.walk(self._bucket(layer), prefix, start_after)
        while batch := await self._run(lambda: list(islice(walk, _LISTED_AT_ONCE))):
            for key, found in batch:
                yield self._info(layer, key, found, {})

    async def list_folders(self, layer: Layer, prefix: str = "") -> list[str]:
        return await self._run(self._folder.folders, self._bucket(layer), prefix)

    async def remove(self, layer: Layer, key: str) -> None:
        await self._run(self._folder.remove, self._place(layer, key))

    async def apply(self, topology: Topology) -> None:
        await self._run(self._folder.make_buckets, [self._buckets.of(layer) for layer in topology.layers])
        if self._teller is not None:
            self._teller.notifications = tuple(topology.notifications)

    async def check(self) -> None:
        await self._run(self._folder.check)

    async def close(self) -> None:
        """Give the folder up. A second call does nothing."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._folder.release()

    async def _emit(self, info: ObjectInfo) -> None:
        if self._teller is not None:
            await self._teller.tell(info)

    async def _run(self, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """`call` in a thread. A cancel waits for its end, so that nothing goes on behind the caller's back."""

        def translated() -> T:
            with _translated():
                return call(*args, **kwargs)

        if self._closed:
            raise TransientFailure("the store is closed", dependency="disk", away=True)
        future = asyncio.get_running_loop().run_in_executor(self._threads, translated)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise

    # what follows runs in threads

    def _bucket(self, layer: Layer) -> Path:
        return self._folder.root / self._buckets.of(layer)

    def _place(self, layer: Layer, key: str) -> "_Place":
        check_key(key)
        return _Place(self._buckets.of(layer), key, self._bucket(layer) / key)

    def _info(self, layer: Layer, key: str, found: _Found, metadata: Mapping[str, str]) -> ObjectInfo:
        return ObjectInfo(
            layer=layer,
            key=key,
            uri=self._buckets.uri(layer, key),
            etag=found.etag,
            bytes=found.bytes,
            last_modified=datetime.fromtimestamp(found.modified, UTC),
            metadata=metadata,
        )

    def _head(self, layer: Layer, key: str) -> ObjectInfo | None:
        place = self._place(layer, key)
        while (found := self._folder.find(place.path)) is not None:
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: look again
                return self._info(layer, key, found, self._folder.metadata(found))
        return None

    def _read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        place = self._place(layer, key)
        while (found := self._folder.find(place.path)) is not None:
            with contextlib.suppress(FileNotFoundError):
                metadata = self._folder.metadata(found)
                return found.data.read_bytes(), self._info(layer, key, found, metadata)
        return None

    def _get(self, layer: Layer, key: str, to: Path, etag: str | None) -> ObjectInfo:
        place = self._place(layer, key)
        uri = self._buckets.uri(layer, key)
        while (found := self._folder.find(place.path)) is not None:
            if etag is not None and found.etag != etag:
                raise InputGone(uri, superseded=True)
            try:
                metadata = self._folder.metadata(found)
                source = found.data.open("rb")
            except FileNotFoundError:
                continue
            with source, to.open("wb") as target:
                if found.id is not None:
                    shutil.copyfileobj(source, target, _CHUNK)
                elif _copy_hashed(source, target) != found.etag:
                    # a person's file can change while it is read
                    if etag is not None:
                        raise InputGone(uri, superseded=True)
                    continue
            return self._info(layer, key, found, metadata)
        raise InputGone(uri, superseded=False)

    def _write(
        self,
        layer: Layer,
        key: str,
        data: Path | bytes,
        metadata: Mapping[str, str],
        content_type: str,
        *,
        create: bool = False,
        etag: str | None = None,
    ) -> ObjectInfo | None:
        place = self._place(layer, key)
        about = _about(place, key, metadata, content_type)
        if self._folder.refused(place, create=create, etag=etag):
            return None
        draft = _Draft(self._folder, key)
        try:
            draft.begin()
            if isinstance(data, bytes):
                draft.write(data)
            else:
                with data.open("rb") as source:
                    while chunk := source.read(_CHUNK):
                        draft.write(chunk)
            found = self._folder.publish(draft, place, about, create=create, etag=etag)
        except BaseException:
            draft.discard()
            raise
        return None if found is None else self._info(layer, key, found, about.metadata)


@dataclass(frozen=True, slots=True)
class _Place:
    bucket: str
    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class _About:
    """What lies beside a version's data."""

    bucket: str
    key: str
    metadata: Mapping[str, str]
    content_type: str


def _about(place: _Place, key: str, metadata: Mapping[str, str], content_type: str) -> _About:
    """ValueError where the metadata could not travel in HTTP headers: that is a mistake of the caller's."""
    lowered = {name.lower(): value for name, value in metadata.items()}
    for name, value in lowered.items():
        if not (name.isascii() and value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(f"user metadata has to be printable ASCII: {name!r}: {value!r}")
    if metadata_size(lowered) > METADATA_LIMIT:
        raise ValueError(f"user metadata of {key!r}: more than {METADATA_LIMIT} bytes")
    return _About(place.bucket, key, lowered, content_type)


class _Draft:
    """A version that is being written. Nobody sees it before it is published."""

    def __init__(self, folder: "_Folder", key: str) -> None:
        now = datetime.now(UTC)
        self.day = f"{now:%Y-%m-%d}"
        self.id = uuid4().hex
        self.bytes = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        match = _SUFFIX.search(key.rpartition("/")[2])
        self._suffix = match[0] if match else ""
        self._folder = folder
        self._home = Path()
        self._data = Path()
        self._file: BinaryIO | None = None
        self.published = False

    def begin(self) -> None:
        self._home = self._folder.day(self.day)
        self._folder.mark(self.day, self.id)
        self._data = self._home / f"{self.id}.part"
        self._file = self._data.open("xb")

    def write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._md5.update(data)
        self.bytes += len(data)

    def finish(self, about: _About) -> _Found:
        """Data and what is about it are on the disk when this returns."""
        assert self._file is not None
        etag = self._md5.hexdigest()
        self._file.flush()
        os.fsync(self._file.fileno())
        modified = os.fstat(self._file.fileno()).st_mtime
        self._file.close()
        document = {
            "bucket": about.bucket,
            "key": about.key,
            "etag": etag,
            "bytes": self.bytes,
            "content_type": about.content_type,
            "metadata": dict(about.metadata),
        }
        with (self._home / f"{self.id}.about.json").open("x") as file:
            json.dump(document, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        self._data = self._data.rename(self._home / f"{self.id}.{etag}{self._suffix}")
        _sync_folder(self._home)
        return _Found(self._data, etag, self.bytes, modified, self.day, self.id)

    def discard(self) -> None:
        """Leave nothing behind. What was published stays."""
        if self._file is None:
            return
        self._file.close()
        if not self.published:
            self._data.unlink(missing_ok=True)
            (self._home / f"{self.id}.about.json").unlink(missing_ok=True)
            self._folder.unmark(self.day, self.id)


class _Folder:
    """The files. Every method blocks; all may be called from several threads."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self._objects = self.root / ".objects"
        self._pending = self.root / ".pending"
        self._publishing = threading.Lock()
        self._etags: OrderedDict[Path, tuple[int, int, int, str]] = OrderedDict()
        self._etags_lock = threading.Lock()
        self._lock: int | None = self._take()
        self._objects.mkdir(exist_ok=True)
        self._pending.mkdir(exist_ok=True)
        for mark in list(self._pending.iterdir()):
            if (match := _MARK.match(mark.name)) is not None:
                self._sweep(match["day"], match["id"])
            mark.unlink()  # another name is a link's on its way to its place
        _sync_folder(self.root)

    def _take(self) -> int:
        lock = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise ConfigurationError(
                f"{self.root} is in use by the process {holder}: one process owns the folder"
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        if not (self.root / ".lock").exists():
            raise ConfigurationError(f"the folder {self.root} was removed while it was in use")

    def make_buckets(self, buckets: Sequence[str]) -> None:
        for bucket in buckets:
            (self.root / bucket).mkdir(exist_ok=True)
        _sync_folder(self.root)

    # versions

    def day(self, day: str) -> Path:
        home = self._objects / day
        try:
            home.mkdir()
        except FileExistsError:
            return home
        _sync_folder(self._objects)
        return home

    def mark(self, day: str, id: str, *, old: bool = False) -> None:
        self._mark_of(day, id, old).touch()

    def unmark(self, day: str, id: str, *, old: bool = False) -> None:
        self._mark_of(day, id, old).unlink(missing_ok=True)

    def _mark_of(self, day: str, id: str, old: bool) -> Path:
        return self._pending / (f"{day}.{id}.old" if old else f"{day}.{id}")

    def _sweep(self, day: str, id: str) -> None:
        """Remove a marked version unless it is the current one of its key."""
        home = self._objects / day
        about = home / f"{id}.about.json"
        try:
            document = json.loads(about.read_bytes())
            found = self.find(self.root / document["bucket"] / document["key"])
        except (FileNotFoundError, ValueError, KeyError):
            found = None  # not written to its end, so it was never published
        if found is None or found.id != id:
            with contextlib.suppress(FileNotFoundError), os.scandir(home) as entries:
                for name in [entry.name for entry in entries if entry.name.startswith(id)]:
                    (home / name).unlink(missing_ok=True)

    def _drop(self, version: _Found) -> None:
        """Remove a marked version that is no longer the current one."""
        version.data.unlink(missing_ok=True)
        if version.id is not None:
            (version.data.parent / f"{version.id}.about.json").unlink(missing_ok=True)
            self.unmark(version.day, version.id, old=True)

    def metadata(self, found: _Found) -> Mapping[str, str]:
        """FileNotFoundError where the version was removed meanwhile."""
        if found.id is None:
            return {}
        document = json.loads((found.data.parent / f"{found.id}.about.json").read_bytes())
        return dict(document["metadata"])

    def find(self, path: Path) -> _Found | None:
        """What is at `path` now; None where nothing is that counts as an object."""
        for _ in range(100):
            try:
                mode = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            if stat.S_ISREG(mode.st_mode):
                if path.name.startswith("."):
                    return None
                try:
                    return _Found(path, self._dropped_etag(path), mode.st_size, mode.st_mtime)
                except FileNotFoundError:
                    continue
            if not stat.S_ISLNK(mode.st_mode):
                return None
            try:
                match = _VERSION.search(str(path.readlink()))
            except OSError:
                continue
            if match is None:
                return None  # a person's link: it may point anywhere
            data = self._objects / match["day"] / f"{match['id']}.{match['etag']}{match['suffix']}"
            try:
                version = data.stat()
            except FileNotFoundError:
                continue  # replaced between the two looks
            return _Found(data, match["etag"], version.st_size, version.st_mtime, match["day"], match["id"])
        raise ConfigurationError(f"{path} points to a version that is not there: was .objects copied without it?")

    def _dropped_etag(self, path: Path) -> str:
        """md5 of a person's file, remembered as long as the file looks the same."""
        with path.open("rb") as file:
            seen = os.fstat(file.fileno())
            look = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
            with self._etags_lock:
                known = self._etags.get(path)
                if known is not None and known[:3] == look:
                    self._etags.move_to_end(path)
                    return known[3]
            etag = _copy_hashed(file, None)
        with self._etags_lock:
            self._etags[path] = (*look, etag)
            while len(self._etags) > _REMEMBERED_ETAGS:
                self._etags.popitem(last=False)
        return etag

    # publication

    def refused(self, place: _Place, *, create: bool, etag: str | None) -> bool:
        """Whether the condition fails by what is there now. The loser may rely on the winner's being durable."""
        if not create and etag is None:
            return False
        found = self.find(place.path)
        lost = (create and found is not None) or (etag is not None and (found is None or found.etag != etag))
        if lost:
            self._sync_place(place)
        return lost

    def publish(
        self, draft: _Draft, place: _Place, about: _About, *, create: bool = False, etag: str | None = None
    ) -> _Found | None:
        """Make `draft` the current version, or drop it and return None where the condition fails."""
        version = draft.finish(about)
        old: _Found | None = None
        with self._publishing:
            old = self.find(place.path)
            lost = (create and old is not None) or (etag is not None and (old is None or old.etag != etag))
            if not lost:
                made = self._make_folders(place)
                target = os.path.relpath(version.data, place.path.parent)
                try:
                    draft.published = self._link(place, target, old, version, create=create)
                    lost = not draft.published
                except (IsADirectoryError, FileExistsError):
                    raise RejectedInput(
                        "bad_key", f"{place.key!r} is a folder of other objects", key=place.key
                    ) from None
                for folder in made:
                    _sync_folder(folder)
        self._sync_place(place)
        if lost:
            draft.discard()
            return None
        if old is not None and old.id is not None:
            self._drop(old)
        self.unmark(version.day, draft.id)
        return version

    def _link(self, place: _Place, target: str, old: _Found | None, version: _Found, *, create: bool) -> bool:
        if create:
            try:
                place.path.symlink_to(target)
            except FileExistsError:
                if place.path.is_dir() and not place.path.is_symlink():
                    raise
                return False  # a person's file came between
            return True
        if old is not None and old.id is not None:
            self.mark(old.day, old.id, old=True)
        passing = self._pending / f"{version.id}.link"
        passing.symlink_to(target)
        try:
            passing.replace(place.path)
        except OSError:
            passing.unlink()
            raise
        return True

    def _make_folders(self, place: _Place) -> list[Path]:
        """Make the folders above `place`; the folders in which one was made."""
        made = []
        folder = self.root
        for name in (place.bucket, *place.key.split("/")[:-1]):
            parent, folder = folder, folder / name
            try:
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    above = folder.relative_to(self.root / place.bucket)
                    raise RejectedInput(
                        "bad_key", f"{place.key!r} would lie below the object {str(above)!r}", key=place.key
                    )
            except FileNotFoundError:
                folder.mkdir()
                made.append(parent)
        return made

    def _sync_place(self, place: _Place) -> None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            _sync_folder(place.path.parent)

    def remove(self, place: _Place) -> None:
        with self._publishing:
            old = self.find(place.path)
            if old is None:
                return
            if old.id is not None:
                self.mark(old.day, old.id, old=True)
            place.path.unlink(missing_ok=True)
            folder = place.path.parent
            while folder.parent != self.root:
                try:
                    folder.rmdir()
                except OSError:
                    break  # not empty
                folder = folder.parent
            _sync_folder(folder)
        if old.id is not None:
            self._drop(old)

    # listing

    def walk(self, bucket: Path, prefix: str, start_after: str) -> Iterator[tuple[str, _Found]]:
        """Keys in the order of their UTF-8 bytes. One folder's names at a time are in memory."""
        above = prefix.rpartition("/")[0]
        if above:
            try:
                check_key(above)
            except RejectedInput:
                return  # no object can lie there
        base = f"{above}/" if above else ""
        yield from self._walk(bucket / above, base, prefix.encode(), start_after.encode())

    def _walk(self, folder: Path, base: str, prefix: bytes, after: bytes) -> Iterator[tuple[str, _Found]]:
        for key, name in self._entries(folder, base):
            spelled = key.encode()
            if name.endswith("/"):
                if not (spelled.startswith(prefix) or prefix.startswith(spelled)):
                    continue
                if spelled < after and not after.startswith(spelled):
                    continue
                yield from self._walk(folder / name[:-1], key, prefix, after)
            elif spelled.startswith(prefix) and spelled > after:
                found = self.find(folder / name)
                if found is not None:
                    yield key, found

    @staticmethod
    def _entries(folder: Path, base: str) -> list[tuple[str, str]]:
        """Whole key and name of each entry, in the order of the keys; those of folders end in a slash."""
        names = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        entry.name.encode()
                    except UnicodeEncodeError:
                        continue  # a person's file whose name is no text can't be a key
                    names.append(entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names.sort(key=str.encode)
        return [(base + name, name) for name in names]

    def folders(self, bucket: Path, prefix: str) -> list[str]:
        above, _, begin = prefix.rpartition("/")
        if above:
            try:
                check_key(above)
            except RejectedInput:
                return []
        base = f"{above}/" if above else ""
        return [
            key
            for key, name in self._entries(bucket / above, base)
            if name.endswith("/") and name.startswith(begin) and self._holds_any(bucket / key)
        ]

    def _holds_any(self, folder: Path) -> bool:
        return next(self._walk(folder, "", b"", b""), None) is not None


def _copy_hashed(source: BinaryIO, target: BinaryIO | None) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The system's errors, named by what follows from them."""
    try:
        yield
    except OSError as error:
        if error.errno in _FOR_A_PERSON:
            raise ConfigurationError(f"the data folder: {error}") from error
        if error.errno == errno.ENAMETOOLONG:
            raise RejectedInput("bad_key", f"a name is too long for this file system: {error.filename}") from error
        if isinstance(error, _MISTAKES):
            raise
        raise TransientFailure(f"the disk: {error}", dependency="disk") from error
