"""The files of tables as they lie in the store: read as they are or not at all, and by a CA of one's own."""

import io
import os
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSystem, S3FileSystem
from pyiceberg.io import InputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO

CA_FILE = "acequia.ca-file"
"""Property of pyiceberg's FileIO: PEM of the CAs that are trusted."""
_MARK = 16
_ASKED = 4
"""How often the store is asked before a file is taken for empty."""


class StoreFileIO(PyArrowFileIO):
    """pyiceberg's own, which also sees where Arrow has read nothing, and takes CA_FILE.

    Where the store's answer breaks off in its headers before it has said how long it is, Arrow's S3 file system
    (seen with pyarrow 26.0.1) raises nothing: a read returns what lay in memory, often an earlier file of this table,
    and the file's size is 0.
    """

    def new_input(self, location: str) -> PyArrowFile:
        scheme, netloc, path = self.parse_location(location, self.properties)
        return _StoreFile(location, path, self.fs_by_scheme(scheme, netloc))

    def _initialize_s3_fs(self, netloc: str | None) -> FileSystem:
        files = super()._initialize_s3_fs(netloc)
        if CA_FILE not in self.properties:
            return files
        assert isinstance(files, S3FileSystem)
        make, (arguments,) = files.__reduce__()  # as it would be pickled: all that it was made with
        return make({**arguments, "tls_ca_file_path": self.properties[CA_FILE]})


class _StoreFile(PyArrowFile):
    def open(self, seekable: bool = True) -> InputStream:
        for _ in range(_ASKED):
            reading = Reading(super().open(seekable=True))
            if reading.size:  # no file of a table is empty: what is, somebody has damaged
                break
        return reading


class Reading(io.RawIOBase):
    """A file of Arrow's, open for reading. OSError where a read has filled nothing of what it says that it has."""

    def __init__(self, file: pa.NativeFile) -> None:
        super().__init__()
        self._file = file
        self.size = file.size()

    def readinto(self, buffer: Any, /) -> int:
        whole = memoryview(buffer).cast("B")
        at = self._file.tell()
        part = whole[: max(0, min(len(whole), self.size - at))]
        end = part[-_MARK:]
        mark = os.urandom(len(end))
        for unlikely in (mark, bytes(255 - byte for byte in mark)):
            end[:] = unlikely
            self._file.seek(at)
            read = int(self._file.readinto(part))
            if not part or (read == len(part) and bytes(end) != unlikely):
                return read
        raise OSError("NETWORK_CONNECTION: the store's answer broke off before it said how long it is")

    def readall(self) -> bytes:
        """In one request."""
        rest = bytearray(max(0, self.size - self._file.tell()))
        return bytes(memoryview(rest)[: self.readinto(rest)])

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


STORE_FILES = f"{StoreFileIO.__module__}.{StoreFileIO.__name__}"
