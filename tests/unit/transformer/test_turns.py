"""However many objects are in work at once, their rows together stay below a bound."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock

import pytest

from acequia_transformer.turns import Turns


def test_rows_in_work_stay_below_the_bound_and_everyone_has_a_turn() -> None:
    turns, lock = Turns(10), Lock()
    now, most, done = 0, 0, []

    def work(rows: int) -> None:
        nonlocal now, most
        with turns.take(rows):
            with lock:
                now += min(rows, 10)
                most = max(most, now)
            Event().wait(0.001)
            with lock:
                now -= min(rows, 10)
                done.append(rows)

    sizes = [1, 7, 25, 3, 10, 4, 6] * 5
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, sizes))
    assert most <= 10
    assert sorted(done) == sorted(sizes)


def test_small_objects_are_in_work_together() -> None:
    turns, together = Turns(10), Barrier(3)

    def work(rows: int) -> None:
        with turns.take(rows):
            together.wait(timeout=20)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, [3, 3, 4]))


def test_work_that_fails_gives_its_rows_back() -> None:
    turns = Turns(10)
    with pytest.raises(ZeroDivisionError), turns.take(10):
        raise ZeroDivisionError
    with turns.take(10):
        pass
