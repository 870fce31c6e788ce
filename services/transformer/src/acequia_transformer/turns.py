"""How many rows are in work at once: a process's memory must not grow with its concurrency."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock


class Turns:
    """Shares out `rows`: work waits, in order of coming, until its rows are free. Work with more has them all."""

    def __init__(self, rows: int) -> None:
        self._rows = self._free = rows
        self._door = Lock()
        self._given_back = Condition()

    @contextmanager
    def take(self, rows: int) -> Iterator[None]:
        """Blocks the calling thread until it is its turn."""
        share = min(rows, self._rows)
        with self._door, self._given_back:  # small work does not slip past large work that waits
            self._given_back.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._given_back:
                self._free += share
                self._given_back.notify_all()
