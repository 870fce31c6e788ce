"""Bytes of a file of Arrow's as they lie there, or an error."""

import io
import os
from typing import Any

import pyarrow as pa

_MARK = 16


class Reading(io.RawIOBase):
    """A file of Arrow's, open for reading. OSError where a read has filled nothing of what it says that it has.

    Where the store's answer breaks off in its headers before it has said how long it is, Arrow's S3 file system
    (seen with pyarrow 26.0.1) raises nothing: a read returns what lay in memory, often an earlier file, and a file's
    size is 0.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        super().__init__()
        self._file = file
        self._at = 0
        self.size = int(file.size())

    def read_at(self, nbytes: int, offset: int) -> bytes:
        """From anywhere; several threads may."""
        into = bytearray(max(0, min(nbytes, self.size - offset)))
        self._fill(memoryview(into), offset)
        return bytes(into)

    def readinto(self, buffer: Any, /) -> int:
        whole = memoryview(buffer).cast("B")
        part = whole[: max(0, min(len(whole), self.size - self._at))]
        self._fill(part, self._at)
        self._at += len(part)
        return len(part)

    def readall(self) -> bytes:
        """In one request."""
        rest = self.read_at(self.size, self._at)
        self._at += len(rest)
        return rest

    def _fill(self, part: memoryview, at: int) -> None:
        if not part:
            return
        end = part[-_MARK:]
        mark = os.urandom(len(end))
        for unlikely in (mark, bytes(255 - byte for byte in mark)):
            end[:] = unlikely
            if self._file.get_stream(at, len(part)).readinto(part) == len(part) and end != unlikely:
                return
        raise OSError("NETWORK_CONNECTION: an answer of the store broke off before it said how long it is")

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()
