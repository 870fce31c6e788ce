"""Packed files, unpacked into a file in bounded memory and within limits. Told by their first bytes, not by name."""

import bz2
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Protocol

import zstandard

from acequia.errors import RejectedInput

CHUNK_BYTES = 2**20
READ_BYTES = 64 * 2**10
"""Read at a time: what is behind a member's end is copied, and a file may be made of tiny members."""
ZSTD_WINDOW_BYTES = 2**27
"""How far back a frame may refer to what came out before, which is held in memory: as far as `zstd` goes unasked."""
_RATIO_GRACE = 2**24
"""Bytes that may come out before the ratio is looked at: a small file of zeros harms nobody."""


_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
"""A frame, or a skippable one, as parallel compressors put first (RFC 8878, 3.1)."""


def packing_of(first: bytes) -> str | None:
    """`gzip`, `bzip2`, `zstd` by the first bytes; None where the file is not packed."""
    if first.startswith(b"\x1f\x8b"):
        return "gzip"
    if first.startswith(b"BZh") and first[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if _ZSTD.match(first):
        return "zstd"
    return None


def unpack(source: Path, to: Path, *, max_ratio: float, max_bytes: int) -> Path:
    """The unpacked file: `to`, or `source` itself where it is not packed.

    Raises RejectedInput: `empty`, `truncated`, `unreadable` (damaged, or a zstd frame that wants more memory than
    128 MiB), `zip_bomb` (more than `max_bytes`, or than `max_ratio` times the packed size).
    """
    size = source.stat().st_size
    with source.open("rb") as file:
        packing = packing_of(file.read(16))
        file.seek(0)
        if size == 0:
            raise RejectedInput("empty", "the file has no bytes")
        if packing is None:
            if size > max_bytes:
                raise RejectedInput("zip_bomb", f"the file has {size} bytes; at most {max_bytes} are read")
            return source
        written = 0
        with to.open("wb") as out:
            for chunk in unpacked(file, packing):
                written += len(chunk)
                if written > max_bytes:
                    raise RejectedInput("zip_bomb", f"unpacked, the file has more than {max_bytes} bytes")
                if written > _RATIO_GRACE and written > max_ratio * size:
                    raise RejectedInput(
                        "zip_bomb", f"unpacked, the file is more than {max_ratio:g} times as large as its {size} bytes"
                    )
                out.write(chunk)
    if written == 0:
        raise RejectedInput("empty", f"the {packing} file holds no bytes")
    return to


def unpacked(file: IO[bytes], packing: str) -> Iterator[bytes]:
    """What is in `file`, in pieces of at most 1 MiB. Several members one after the other are one file."""
    inflater: Inflater | None = None
    members = 0
    data = b""
    while data or (data := file.read(READ_BYTES)):
        if inflater is None:
            if len(data) < 16:
                data += file.read(16)
            if members and not data.strip(b"\x00"):
                data = b""  # padding, as tapes and some tools leave it
                continue
            if members and packing_of(data) != packing:
                raise RejectedInput("unreadable", f"there is something else behind the {packing} data")
            inflater = _INFLATERS[packing]()
            members += 1
        try:
            yield from inflater.pieces(data)
        except (zlib.error, zstandard.ZstdError, OSError, ValueError) as error:
            raise RejectedInput("unreadable", f"the {packing} data are damaged: {error}") from error
        data = b""
        if inflater.eof:
            data = inflater.rest
            inflater = None
    if inflater is not None:
        raise RejectedInput("truncated", f"the {packing} file ends in the middle")


class Inflater(Protocol):
    """One member of a packed file."""

    @property
    def eof(self) -> bool:
        """Whether the member's end was reached."""
        ...

    @property
    def rest(self) -> bytes:
        """What was handed over and lies behind the end."""
        ...

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What comes out of the next bytes, in pieces of at most 1 MiB."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self._raw = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._raw.eof

    @property
    def rest(self) -> bytes:
        return self._raw.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._raw.decompress(data, CHUNK_BYTES)
            data = self._raw.unconsumed_tail
            if piece:
                yield piece
            if self._raw.eof or (len(piece) < CHUNK_BYTES and not data):
                return


class _Bzip2:
    def __init__(self) -> None:
        self._raw = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._raw.eof

    @property
    def rest(self) -> bytes:
        return self._raw.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._raw.decompress(data, CHUNK_BYTES)
            data = b""
            if piece:
                yield piece
            if self._raw.eof or self._raw.needs_input:
                return


class _Zstd:
    """Skippable frames are frames without content."""

    _STEP = 1024
    """Bytes undone at a time: zstandard has no limit on what comes out, and four bytes may stand for 128 KiB."""

    def __init__(self) -> None:
        self._raw = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
        self._rest = b""

    @property
    def eof(self) -> bool:
        return self._raw.eof

    @property
    def rest(self) -> bytes:
        return self._rest

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for begin in range(0, len(data), self._STEP):
            try:
                out = self._raw.decompress(data[begin : begin + self._STEP])
            except zstandard.ZstdError as error:
                if "memory" not in str(error):
                    raise
                wanted = f"the zstd data need more than {ZSTD_WINDOW_BYTES // 2**20} MiB of memory to be undone"
                raise RejectedInput("unreadable", f"{wanted}: pack them with --long=27 or less") from error
            for start in range(0, len(out), CHUNK_BYTES):
                yield out[start : start + CHUNK_BYTES]
            if self._raw.eof:
                self._rest = self._raw.unused_data + data[begin + self._STEP :]
                return


_INFLATERS: Mapping[str, type[Inflater]] = {"gzip": _Gzip, "bzip2": _Bzip2, "zstd": _Zstd}
