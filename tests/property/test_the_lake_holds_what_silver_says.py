"""Random plans, crashes, replays, races and maintenance: the tables end with what SILVER's objects say, no row twice.

ACEQUIA_SCHEDULES=500 tries so many.
"""

import os
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from acequia_lakehouse.maintain import compact, expire
from unit.lakehouse.conftest import NEW, OLD, Killed, Object, open_lake, people, visits

SCHEDULES = int(os.environ.get("ACEQUIA_SCHEDULES", "6"))
STEPS = ("lakehouse.after_tombstones", "lakehouse.after_files", "lakehouse.after_table")
LATER = datetime.now(UTC) + timedelta(days=1)


class World:
    """Plans are made in order and worked off in any, each until it ended; some again, long after."""

    def __init__(self, seed: int, folder: Path, dataset: str) -> None:
        self.random = random.Random(seed)
        self.dataset = dataset
        self.lake = open_lake(folder, file_rows=self.random.choice((3, 8, 1000)))
        self.plans: dict[int, tuple[list[Object], list[Object]]] = {}

    def nobody(self, step: str) -> None:
        """Nothing happens at this step."""

    def hook(self, number: int) -> Callable[[str], None]:
        """Now and then the process dies at a step, or another process carries another plan out there."""
        fate, step = self.random.random(), self.random.choice(STEPS)
        others = [n for n in self.plans if n != number]

        def at(reached: str) -> None:
            nonlocal fate
            if reached != step:
                return
            if fate < 0.25:
                fate = 1.0
                raise Killed(step)
            if fate < 0.45 and others:
                fate = 1.0
                self.carry_out(self.random.choice(others), self.nobody)

        return at

    def carry_out(self, number: int, at: Callable[[str], None]) -> None:
        inputs, window = self.plans[number]
        self.lake.plan(number, *inputs, window=window, at=at)

    def until_it_ended(self, number: int) -> None:
        while True:
            try:
                self.carry_out(number, self.hook(number))
            except Killed:
                continue
            return

    def maintain(self) -> None:
        key = ("id",) if self.dataset == "people" else ()
        for name in self.lake.tables.names():
            if self.random.random() < 0.5:
                compact(self.lake.tables, name, key)
            if self.random.random() < 0.5:
                expire(self.lake.tables, name, LATER)

    def run(self) -> None:
        """Each plan at least once, in an order that is not theirs; then some once more."""
        order = sorted(self.plans, key=lambda n: n + self.random.uniform(-3, 3))
        again = [self.random.choice(order) for _ in range(4)]
        for place, number in enumerate([*order, *again]):
            self.until_it_ended(number)
            if place % 4 == 3:
                self.maintain()


def events(world: World) -> list[int]:
    """Plans of objects of which some come in two variants. Gives the ids that the table must hold, each once."""
    newest: dict[int, list[int]] = {}
    draw = world.random
    for number in range(1, 11):
        inputs = []
        for stem in {draw.randrange(8) for _ in range(draw.randrange(1, 4))}:
            variant = draw.choice((OLD, NEW))
            ids = [stem * 100 + n + (50 if variant == NEW else 0) for n in range(draw.randrange(1, 4))]
            known = [o for given, _ in world.plans.values() for o in given if o.stem.id == f"{stem:016x}"]
            if same := [o for o in known if o.variant == variant]:
                inputs.append(same[0])
                continue
            inputs.append(world.lake.put("visits", stem, visits(*ids), variant))
            if variant == NEW or stem not in newest:
                newest[stem] = ids
        world.plans[number] = (inputs, [])
    return sorted(each for ids in newest.values() for each in ids)


def changes(world: World) -> dict[int, str]:
    """Loads of a table, some of them full and in parts. Gives what each key must say at the end."""
    draw, expected = world.random, dict[int, str]()
    number = 0
    for load in range(1, 10):
        if draw.random() < 0.3:
            keys = list(range(12))
            draw.shuffle(keys)
            cut = draw.randrange(1, 10)
            parts = [
                dict.fromkeys(chunk, f"full {load}") for chunk in (keys[: cut // 2], keys[cut // 2 : cut]) if chunk
            ]
            expected = {key: text for part in parts for key, text in part.items()}
            objects = [
                world.lake.put(
                    "people",
                    load,
                    people(load, dict(rows), place),
                    OLD,
                    f"{load}.full.{place}" + (f"of{len(parts)}" if place == len(parts) else ""),
                    place,
                )
                for place, rows in enumerate(parts, 1)
            ]
            draw.shuffle(objects)
            for place, one in enumerate(objects):
                number += 1
                world.plans[number] = ([one], objects[:place])
        else:
            rows = {k: (None if draw.random() < 0.3 else f"change {load}") for k in draw.sample(range(12), 3)}
            for key, text in rows.items():
                if text is None:
                    expected.pop(key, None)
                else:
                    expected[key] = text
            number += 1
            world.plans[number] = (
                [world.lake.put("people", load, people(load, rows), OLD, f"{load}.changes.1of1")],
                [],
            )
    return expected


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_each_objects_rows_are_there_once_and_in_their_newest_variant(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path, "visits")
    expected = events(world)

    world.run()

    assert sorted(world.lake.rows("visits", "id")["id"]) == expected


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_each_key_says_what_its_newest_version_says(seed: int, tmp_path: Path) -> None:
    world = World(seed, tmp_path, "people")
    expected = changes(world)

    world.run()

    frame = world.lake.rows("people", "id", "name")
    assert frame["id"].n_unique() == frame.height
    assert dict(frame.iter_rows()) == expected
