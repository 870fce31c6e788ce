"""The objects that a query reads: as they were listed when it began, for DuckDB to read and nothing else.

An installation is reached in its folder, also while `acequia up` owns it (its objects never change, so nothing is
locked), or in the servers' object store. DuckDB is given no file system but `SnapshotFiles`, which knows the listed
objects only and never writes.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
from dotenv import dotenv_values
from fsspec.spec import AbstractFileSystem
from pyarrow import fs as arrow_fs

from acequia.adapters.minio import MinioStore
from acequia.errors import ConfigurationError
from acequia.layers import Layer, Name
from acequia.settings import AcequiaSettings, MinioSettings, load
from acequia_cli.complaints import WrongUse
from acequia_cli.profiles import resolve
from acequia_lakehouse.reading import Reading
from acequia_lakehouse.settings import LakehouseSettings

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog

PROTOCOL = "acequia"
NAMED = ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
"""What says where the servers' object store is."""


class Opened(Protocol):
    """A file that several threads may read."""

    def read_at(self, nbytes: int, offset: int) -> bytes: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a table that a query may read. Memory: some 300 bytes for each."""

    sizes: Mapping[str, int]
    """By path below the table, in order."""
    open: Callable[[str], Opened]
    """For reading at any place; FileNotFoundError where it is gone."""

    def __len__(self) -> int:
        return len(self.sizes)


class Installation(Protocol):
    """Where a query reads. Its methods block, but `raw`."""

    settings: AcequiaSettings

    async def raw(self, dataset: str, until: datetime | None) -> Files:
        """The dataset's objects in RAW now, or those of now that were written until then, the oldest first."""
        ...

    def catalog(self) -> "Catalog | None":
        """Of the lakehouse's tables; None where none was ever made."""
        ...

    def namespace(self) -> str:
        """Of the lakehouse's tables in the catalog."""
        ...


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the person named, to find an installation's objects."""

    data: Path | None
    """None: no folder was named."""
    url: str | None
    env_file: Path | None
    default: Path
    environment: str | None = None
    """Of the settings file, `acequia.toml`."""
    config: Path | None = None

    def resolved(self) -> "Chosen":
        """With what the environment says, whose settings are this process's from here on."""
        if self.environment is None:
            return self
        profile = resolve(self.environment, self.config)
        profile.take_effect()
        return replace(self, data=self.data or profile.data, url=self.url or profile.url, environment=None)


@asynccontextmanager
async def reached(chosen: Chosen) -> AsyncIterator[Installation]:
    """The folder that was named, else the servers whose settings are there, else the default folder.

    Raises WrongUse where there is no installation, and where a URL stands alone: no object is read over HTTP.
    """
    chosen = chosen.resolved()
    if chosen.env_file is not None and not chosen.env_file.is_file():
        raise WrongUse(f"{chosen.env_file}: no such file")
    file = dotenv_values(chosen.env_file) if chosen.env_file is not None else {}
    every = {name.upper(): value for name, value in (file | os.environ).items()}
    servers = any(every.get(name) for name in NAMED)
    if chosen.url and not servers and chosen.data is None:
        raise WrongUse(
            f"a query reads the objects themselves, and {chosen.url} does not hand them out: set {', '.join(NAMED)} "
            "and ACEQUIA_LAKEHOUSE_CATALOG_URI as the services have them, or name their file with --env-file .env"
        )
    settings = load(AcequiaSettings, _env_file=chosen.env_file)
    if servers and chosen.data is None:
        minio = load(MinioSettings, _env_file=chosen.env_file)
        async with await MinioStore.open(minio, settings.buckets) as store:
            yield Servers(settings, minio, store, chosen.env_file)
        return
    data = chosen.data or chosen.default
    if not (data / "store").is_dir():
        raise WrongUse(
            f"there is no installation in {data} yet: try `acequia demo`, name one with --data, or set "
            f"{', '.join(NAMED)} for servers"
        )
    yield Folder(settings, data.resolve(), chosen.env_file)


class Folder:
    """An embedded installation. Nothing of it is locked or changed."""

    def __init__(self, settings: AcequiaSettings, data: Path, env_file: Path | None) -> None:
        self.settings = settings
        self._data = data
        self._env_file = env_file

    async def raw(self, dataset: str, until: datetime | None) -> Files:
        folder = self._data / "store" / self.settings.buckets.of(Layer.RAW) / dataset
        sizes = await asyncio.to_thread(lambda: dict(sorted(self._walk(folder, until))))
        return Files(sizes, lambda path: pa.OSFile(str(folder / path)))

    def _walk(self, folder: Path, until: datetime | None) -> Iterator[tuple[str, int]]:
        """Path below the dataset's folder, and size."""
        for day in _entries(folder):
            for path in _entries(day):
                if not _is_raw(folder.name, below := f"{day.name}/{path.name}"):
                    continue
                try:
                    about = path.stat()
                except FileNotFoundError:
                    continue  # it went meanwhile
                if until is None or datetime.fromtimestamp(about.st_mtime, UTC) <= until:
                    yield below, about.st_size

    def catalog(self) -> "Catalog | None":
        from acequia_lakehouse.catalog import CATALOG_FILE, Place, open_catalog  # noqa: PLC0415 - see plan.py

        lakehouse = load(LakehouseSettings, _env_file=self._env_file)
        named = lakehouse.catalog != "sql" or lakehouse.catalog_uri.get_secret_value()
        if not named and not (self._data / "lake" / CATALOG_FILE).is_file():
            return None
        return open_catalog(lakehouse, Place.in_folder(self._data, self.settings.buckets))

    def namespace(self) -> str:
        return load(LakehouseSettings, _env_file=self._env_file).namespace


def _is_raw(dataset: str, below: str) -> bool:
    """Whether the key `<dataset>/<below>` is one of RAW's."""
    name = Name.of_key(f"{dataset}/{below}")
    return name is not None and name.variant is None and name.stem.dataset == dataset


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


class Servers:
    """The services' object store, and the catalog of the lakehouse."""

    def __init__(
        self, settings: AcequiaSettings, minio: MinioSettings, store: MinioStore, env_file: Path | None
    ) -> None:
        self.settings = settings
        self._minio = minio
        self._store = store
        self._env_file = env_file
        self._files = arrow_fs.S3FileSystem(
            access_key=minio.access_key,
            secret_key=minio.secret_key.get_secret_value(),
            session_token=minio.session_token.get_secret_value() or None,
            endpoint_override=minio.endpoint,
            scheme="https" if minio.secure else "http",
            region=minio.region,
            connect_timeout=10,
            request_timeout=60,
            tls_ca_file_path=minio.ca_file or None,
        )

    async def raw(self, dataset: str, until: datetime | None) -> Files:
        folder = f"{dataset}/"
        sizes = {}
        async for info in self._store.list_objects(Layer.RAW, folder):
            below = info.key.removeprefix(folder)
            if _is_raw(dataset, below) and (until is None or info.last_modified <= until):
                sizes[below] = info.bytes
        place = f"{self.settings.buckets.of(Layer.RAW)}/{folder}"
        return Files(sizes, lambda path: Reading(self._files.open_input_file(place + path)))

    def catalog(self) -> "Catalog | None":
        from acequia_lakehouse.catalog import Place, open_catalog  # noqa: PLC0415 - see plan.py

        lakehouse = load(LakehouseSettings, _env_file=self._env_file)
        try:
            return open_catalog(lakehouse, Place.on_server(self._minio, self.settings.buckets))
        except ConfigurationError as error:
            raise WrongUse(f"silver.* is in the lakehouse's catalog. {error}") from error

    def namespace(self) -> str:
        return load(LakehouseSettings, _env_file=self._env_file).namespace


class SnapshotFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """The file system that DuckDB reads by: `acequia://<schema>/<table>/...`, each path one that was listed.

    Every method may be called from several threads at once.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self._tables: dict[str, Files] = {}
        self.gone: str | None = None
        """A file that was listed and is not there any more."""
        self.trouble: OSError | None = None
        """Why a file that is there could not be read."""

    def add(self, place: str, files: Files) -> str:
        """Let `files` be read; the pattern that names them all. `place`: `<schema>/<table>`."""
        self._tables[place] = files
        return f"{PROTOCOL}://{place}/**"

    def glob(self, path: str, **_: Any) -> list[str]:
        files, below = self._split(path)
        if below != "**":
            return [path] if below in files.sizes else []
        above = path.removesuffix(below)
        return [above + name for name in files.sizes]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._size(path), "type": "file"}

    def modified(self, path: str) -> datetime:
        """They never change."""
        self._size(path)
        return datetime(1970, 1, 1, tzinfo=UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> "OpenFile":
        if mode != "rb":
            raise PermissionError(f"{path}: objects are only read")
        return OpenFile(self._opened(path), self._size(path), partial(self._failed, path))

    def _opened(self, path: str) -> Opened:
        self._size(path)
        files, below = self._split(path)
        try:
            return files.open(below)
        except FileNotFoundError:
            self.gone = path
            raise
        except OSError as error:
            self.trouble = error
            raise

    def _failed(self, path: str, error: OSError) -> None:
        """It was opened and then could not be read: was it removed, or is it the store?"""
        self._opened(path).close()
        self.trouble = error

    def _size(self, path: str) -> int:
        files, below = self._split(path)
        try:
            return files.sizes[below]
        except KeyError:
            raise FileNotFoundError(path) from None

    def _split(self, path: str) -> tuple[Files, str]:
        """The files of the table that the path names, and what of it is below the table."""
        schema, _, rest = path.removeprefix(f"{PROTOCOL}://").partition("/")
        table, _, below = rest.partition("/")
        try:
            return self._tables[f"{schema}/{table}"], below
        except KeyError:
            raise FileNotFoundError(path) from None


class OpenFile:
    """A file that several threads read, each at a place of its own: DuckDB seeks and reads in two steps."""

    closed = False

    def __init__(self, file: Opened, size: int, failed: Callable[[OSError], None]) -> None:
        self._file = file
        self._size = size
        self._failed = failed
        self._at = threading.local()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        self._at.offset = start + offset
        return start + offset

    def tell(self) -> int:
        return int(getattr(self._at, "offset", 0))

    def read(self, size: int = -1) -> bytes:
        offset = self.tell()
        try:
            data: bytes = self._file.read_at(self._size - offset if size < 0 else size, offset)
        except OSError as error:
            self._failed(error)
            raise
        self._at.offset = offset + len(data)
        return data

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._file.close()
