"""Which plans cover which objects, with one date partition's inputs in memory at a time."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from datetime import date

from acequia.batches import Plan
from acequia.errors import TransientFailure
from acequia.layers import Layer, Stem, plan_key, plan_prefix
from acequia.runner import Workshop
from acequia_reconciler.ids import Ids, digest

_PLAN = re.compile(r"/(\d{6,})\.json$")
_AT_ONCE = 16
"""Plans that are read at once."""


class PlanIndex:
    """Of each plan of a stage and dataset: its stem, and the dates of what it covers. Plans never change."""

    def __init__(self, workshop: Workshop, stage: str, dataset: str) -> None:
        self._workshop = workshop
        self.stage = stage
        self.dataset = dataset
        self.stems: dict[int, Stem] = {}
        self._dates: dict[int, tuple[str, ...]] = {}
        self.last = 0
        """The highest number that is known."""
        self._from: int | None = None
        """Plans below this number are not read yet."""

    async def refresh(self, since: date | None = None) -> None:
        """Read what is new and, the first time, every plan that can cover an object dated `since` or later.

        ValueError or KeyError where what lies there is no plan.
        """
        newest = await self._read(self.last) if self.last else None
        if newest is None:
            prefix = plan_prefix(self.stage, self.dataset)
            listed = self._workshop.store.list_objects(Layer.LEDGER, prefix)
            self.last = max([int(m[1]) async for info in listed if (m := _PLAN.search(info.key))], default=0)
            if not self.last:
                return
            if (newest := await self._read(self.last)) is None:
                raise TransientFailure("a plan was removed while it was read", dependency="minio")
            self._learn(newest)
        while (following := await self._read(newest.number + 1)) is not None:
            self._learn(following)
            newest = following
        # an open plan has a number of `plans_from` or more, whatever it covers
        settled = since is not None and since >= newest.settled_before
        first = newest.plans_from if settled else 1
        if self._from is None or first < self._from:
            await self._load(range(first, self.last if self._from is None else self._from))
            self._from = first
        self.last = newest.number

    def covering(self, day: str) -> list[int]:
        """Numbers of the known plans that cover an object of the day `YYYYMMDD`."""
        return [number for number, days in self._dates.items() if day in days]

    async def inputs(self, numbers: Iterable[int]) -> Mapping[int, list[tuple[str, str]]]:
        """Stem and key of what the plans cover, by number."""
        plans = await asyncio.gather(*(self._read(number) for number in numbers))
        return {plan.number: [(c.stem, c.key) for c in plan.inputs] for plan in plans if plan is not None}

    async def _load(self, numbers: Iterable[int]) -> None:
        wanted = [n for n in numbers if n not in self.stems]
        for start in range(0, len(wanted), _AT_ONCE):
            for plan in await asyncio.gather(*(self._read(n) for n in wanted[start : start + _AT_ONCE])):
                if plan is not None:
                    self._learn(plan)

    def _learn(self, plan: Plan) -> None:
        self.stems[plan.number] = plan.stem
        self._dates[plan.number] = tuple(sorted({day_of(c.stem, self.dataset) for c in plan.inputs}))

    async def _read(self, number: int) -> Plan | None:
        found = await self._workshop.store.read(Layer.LEDGER, plan_key(self.stage, self.dataset, number))
        return Plan.parse(found[0]) if found else None


class Coverage:
    """Which plans cover an object: ask in the order of the dates. `meanings`: of each plan number, below 256."""

    def __init__(self, index: PlanIndex, meanings: Mapping[int, int]) -> None:
        self._index = index
        self._meanings = meanings
        self._day: str | None = None
        self._ids = Ids()
        self._keys = Ids()

    async def of(self, stem: str) -> list[int]:
        """The meanings of the plans that cover the object; none where no plan does."""
        day = day_of(stem, self._index.dataset)
        if day != self._day:
            self._ids, self._keys, self._day = Ids(), Ids(), day
            numbers = self._index.covering(day)
            for start in range(0, len(numbers), _AT_ONCE):
                found = await self._index.inputs(numbers[start : start + _AT_ONCE])
                for number, inputs in found.items():
                    for covered, key in inputs:
                        if day_of(covered, self._index.dataset) == day:
                            self._ids.add(digest(covered), self._meanings.get(number, 0))
                            self._keys.add(digest(key))
        return self._ids.meanings(digest(stem))

    def took(self, key: str) -> bool:
        """Whether a plan covers this very object, not another variant of its stem: of the stem asked for last."""
        return digest(key) in self._keys


def day_of(stem: str, dataset: str) -> str:
    """`YYYYMMDD` of a stem of the dataset, as it is spelled there."""
    return stem[len(dataset) + 1 : len(dataset) + 9]
