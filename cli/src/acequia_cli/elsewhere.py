"""Files that a predecessor left: in a folder, or in a bucket of any S3."""

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from acequia.errors import ConfigurationError, InputGone
from acequia.layers import Buckets, Layer, Stem
from acequia.settings import MinioSettings, load
from acequia_cli.complaints import FileGone, WrongUse

S3 = "s3://"
_TIME = re.compile(r"(?<!\d)(\d{8})[_T-]?(\d{6})(?!\d)")
_ANY = Layer.LANDING
"""The one bucket is every layer's: which one is named does not matter."""


@dataclass(frozen=True, slots=True)
class Left:
    """One file of theirs. `etag`: as its store tells it, or the MD5 of its bytes; empty where they can't be read."""

    name: str
    uri: str
    etag: str
    modified: datetime
    place: str
    """Key in its bucket, or path."""

    def at(self, zone: ZoneInfo) -> datetime:
        """When it was written, as its name says (`..._20251220_121209.parquet`); else when it was stored."""
        for match in _TIME.finditer(self.name):
            try:
                at = datetime.fromisoformat(f"{match[1]}T{match[2]}")
            except ValueError:
                continue
            return at.replace(tzinfo=zone).astimezone(UTC)
        return self.modified


@dataclass(slots=True)
class Wanted:
    """Which files are meant; those that are not are counted, by reason."""

    pattern: str
    recursive: bool
    skipped: Counter[str] = field(default_factory=Counter)

    def takes(self, name: str) -> bool:
        if not fnmatch(name, self.pattern):
            self.skipped["another name"] += 1
            return False
        if (stem := Stem.parse(name.partition(".")[0])) is not None and stem.id:
            self.skipped["Acequia's own"] += 1
            return False
        return True


class Source(Protocol):
    """Where files lie."""

    def files(self, wanted: Wanted) -> AsyncIterator[Left]:
        """In the order of their names. Raises Complaint, or AcequiaError, where it can't be listed."""
        ...

    async def fetch(self, left: Left, folder: Path) -> Path:
        """The file on this disk; where it has to be fetched, below `folder`. FileGone where it can't be read."""
        ...

    async def close(self) -> None: ...


class Folder:
    """A folder, or one file. `uri_of`: how a path is called."""

    def __init__(self, path: Path, uri_of: Callable[[Path], str]) -> None:
        self._path = path
        self._uri_of = uri_of
        if not path.exists():
            raise WrongUse(f"{path}: no such file or folder")

    async def files(self, wanted: Wanted) -> AsyncIterator[Left]:
        for path in self._paths(wanted):
            try:
                etag, modified = _md5(path), path.stat().st_mtime
            except OSError:  # what becomes of this one is told when it is fetched
                etag, modified = "", 0.0
            yield Left(path.name, self._uri_of(path), etag, datetime.fromtimestamp(modified, UTC), str(path))

    def _paths(self, wanted: Wanted) -> Iterator[Path]:
        if self._path.is_file():
            yield self._path
            return
        found = self._path.rglob("*") if wanted.recursive else self._path.iterdir()
        yield from sorted(p for p in found if p.is_file() and not p.name.startswith(".") and wanted.takes(p.name))

    async def fetch(self, left: Left, folder: Path) -> Path:
        return _readable(Path(left.place))

    async def close(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class OneBucket(Buckets):
    """Somebody else's bucket, as the adapter knows buckets."""

    bucket: str = ""

    def of(self, layer: Layer) -> str:
        return self.bucket


class Bucket:
    """`s3://bucket/prefix`, read with MINIO_ENDPOINT, MINIO_ACCESS_KEY and MINIO_SECRET_KEY."""

    def __init__(self, uri: str) -> None:
        from acequia.adapters.minio import MinioStore  # noqa: PLC0415 - it brings aiohttp

        bucket, _, self._prefix = uri.removeprefix(S3).partition("/")
        if not bucket:
            raise WrongUse(f"{uri}: s3://bucket, or s3://bucket/prefix, is expected")
        self._opening = MinioStore.open(load(MinioSettings), OneBucket(bucket=bucket))
        self._store: MinioStore | None = None
        self._uri = f"{S3}{bucket}/"

    async def files(self, wanted: Wanted) -> AsyncIterator[Left]:
        if self._store is None:
            try:
                self._store = await self._opening
            except ConfigurationError as error:
                raise ConfigurationError(f"{self._uri}: {str(error).partition(': ')[2] or error}") from error
        # not below folders, however much may lie there: a prefix of `a/b` begins names, one of `a/` is a folder
        base = len(self._prefix.rpartition("/")[0]) + 1 if "/" in self._prefix else 0
        async for info in self._store.list_objects(_ANY, self._prefix):
            if not wanted.recursive and "/" in info.key[base:]:
                continue
            if info.key.endswith("/") or not wanted.takes(info.key.rpartition("/")[2]):
                continue
            name = info.key.rpartition("/")[2]
            yield Left(name, f"{self._uri}{info.key}", info.etag, info.last_modified, info.key)

    async def fetch(self, left: Left, folder: Path) -> Path:
        assert self._store is not None
        to = folder / hashlib.sha256(left.place.encode()).hexdigest()[:16]
        try:
            await self._store.get(_ANY, left.place, to, etag=left.etag)
        except InputGone as gone:
            raise FileGone(str(gone)) from gone
        return to

    async def close(self) -> None:
        if self._store is None:
            self._opening.close()
        else:
            await self._store.close()


def open_source(text: str, data: Path | None) -> Source:
    """What a person named. `data`: the embedded installation, whose buckets are folders. WrongUse where it is none."""
    if text.startswith(S3):
        return Bucket(text)
    if "://" in text:
        raise WrongUse(f"{text}: a folder, a file or s3://bucket/prefix is expected")
    store = (data / "store").resolve() if data else None

    def uri_of(path: Path) -> str:
        whole = path.parent.resolve() / path.name
        return S3 + str(whole.relative_to(store)) if store and whole.is_relative_to(store) else whole.as_uri()

    return Folder(Path(text).expanduser(), uri_of)


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise FileGone(f"it can't be read: {error.strerror}") from error
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
