"""A set of 16-byte ids with a byte of meaning each: a million of them are 17 MB."""

import heapq
from collections.abc import Iterator
from hashlib import blake2b

_WIDTH = 17
_RUN = 65_536


def digest(text: str) -> bytes:
    """16 bytes that stand for `text`."""
    return blake2b(text.encode(), digest_size=16).digest()


class Ids:
    """Add first, then ask. What comes in order (a listing does) is kept as it comes; the rest is sorted in runs."""

    def __init__(self) -> None:
        self._fresh: list[bytes] = []
        self._runs: list[bytearray] = []

    def __len__(self) -> int:
        return len(self._fresh) + sum(len(run) for run in self._runs) // _WIDTH

    def add(self, id: bytes, meaning: int = 0) -> None:
        """`id` has 16 bytes, `meaning` is below 256. The same id may have several meanings."""
        self._fresh.append(id + bytes((meaning,)))
        if len(self._fresh) >= _RUN:
            self._settle()

    def meanings(self, id: bytes) -> list[int]:
        """Those of `id`, each once, in their order; none where it is not here."""
        self._settle()
        if len(self._runs) > 1:
            merged = bytearray()
            for entry in heapq.merge(*(_entries(run) for run in self._runs)):
                merged += entry
            self._runs = [merged]
        if not self._runs:
            return []
        run = self._runs[0]
        low, high = 0, len(run) // _WIDTH
        while low < high:
            middle = (low + high) // 2
            if run[middle * _WIDTH : middle * _WIDTH + 16] < id:
                low = middle + 1
            else:
                high = middle
        found: list[int] = []
        while run[low * _WIDTH : low * _WIDTH + 16] == id:
            meaning = run[low * _WIDTH + 16]
            if meaning not in found:
                found.append(meaning)
            low += 1
        return found

    def __contains__(self, id: bytes) -> bool:
        return bool(self.meanings(id))

    def _settle(self) -> None:
        if not self._fresh:
            return
        self._fresh.sort()
        if self._runs and self._runs[-1][-_WIDTH:] <= self._fresh[0]:
            self._runs[-1] += b"".join(self._fresh)
        else:
            self._runs.append(bytearray().join(self._fresh))
        self._fresh.clear()


def _entries(run: bytearray) -> Iterator[bytes]:
    return (bytes(run[at : at + _WIDTH]) for at in range(0, len(run), _WIDTH))
