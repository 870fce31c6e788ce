"""Packed files, unpacked into a file in bounded memory and within limits. Told by their first bytes, not by name."""

import bz2
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from acequia.errors import RejectedInput

CHUNK_BYTES = 2**20
_RATIO_GRACE = 2**24
"""Bytes that may come out before the ratio is looked at: a small file of zeros harms nobody."""


def packing_of(first: bytes) -> str | None:
    """`gzip`, `bzip2`, `zstd` by the first bytes; None where the file is not packed."""
    if first.startswith(b"\x1f\x8b"):
        return "gzip"
    if first.startswith(b"BZh") and first[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return "bzip2"
    if first.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd"
    return None


def unpack(source: Path, to: Path, *, max_ratio: float, max_bytes: int) -> Path:
    """The unpacked file: `to`, or `source` itself where it is not packed.

    Raises RejectedInput: `empty`, `truncated`, `unreadable` (damaged, or a packing we do not know how to undo),
    `zip_bomb` (more than `max_bytes`, or than `max_ratio` times the packed size).
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
    if packing == "zstd":
        raise RejectedInput("unreadable", "zstd is not undone here: hand the file over as gzip, bzip2 or plain")
    inflater: _Gzip | _Bzip2 | None = None
    members = 0
    data = b""
    while data or (data := file.read(CHUNK_BYTES)):
        if inflater is None:
            if len(data) < 16:
                data += file.read(16)
            if members and not data.strip(b"\x00"):
                data = b""  # padding, as tapes and some tools leave it
                continue
            if members and packing_of(data) != packing:
                raise RejectedInput("unreadable", f"there is something else behind the {packing} data")
            inflater = _Gzip() if packing == "gzip" else _Bzip2()
            members += 1
        try:
            yield from inflater.pieces(data)
        except (zlib.error, OSError, ValueError) as error:
            raise RejectedInput("unreadable", f"the {packing} data are damaged: {error}") from error
        data = b""
        if inflater.raw.eof:
            data = inflater.raw.unused_data
            inflater = None
    if inflater is not None:
        raise RejectedInput("truncated", f"the {packing} file ends in the middle")


class _Gzip:
    """One member of a gzip file."""

    def __init__(self) -> None:
        self.raw = zlib.decompressobj(wbits=31)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self.raw.decompress(data, CHUNK_BYTES)
            data = self.raw.unconsumed_tail
            if piece:
                yield piece
            if self.raw.eof or (len(piece) < CHUNK_BYTES and not data):
                return


class _Bzip2:
    """One stream of a bzip2 file."""

    def __init__(self) -> None:
        self.raw = bz2.BZ2Decompressor()

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self.raw.decompress(data, CHUNK_BYTES)
            data = b""
            if piece:
                yield piece
            if self.raw.eof or self.raw.needs_input:
                return
