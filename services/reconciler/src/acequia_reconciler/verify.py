"""The proof that nothing is lost: per layer, dataset and reader the fates add up to the objects.

objects = done + quarantined + dead + held + not applicable + in flight + orphans
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC
from typing import Any

from acequia.layers import Layer
from acequia.runner import Workshop
from acequia.topology import READERS, Topology, replay_queue
from acequia_reconciler.census import COMMANDS, PLANNING, Census, Fate

PROGRESS_EVERY = 1000
"""Objects between two words on how far it is."""
QUEUES_AT_ONCE = 8


async def verify(
    workshop: Workshop, topology: Topology, *, grace: float, settled: bool = False
) -> AsyncIterator[Mapping[str, Any]]:
    """Look at every object at its reader. Documents: `progress`, `orphan`, and last `result`.

    `result.ok`: there is no orphan, and nothing could not be read; with `settled` also `result.settled`: every queue is
    empty and nothing is in flight. Raises as store and bus do.
    """
    queues = await depths(workshop, topology)
    busy = {reader.stage for reader in READERS if any(queues[name] for name in _queues_of(reader.stage, topology))}
    census = Census(workshop, topology, grace=grace, busy=busy, outputs=True)
    problems: list[str] = []
    sums: dict[tuple[str, str, str], Counter[Fate]] = {}
    layers = {COMMANDS: Layer.LEDGER} | {reader.stage: reader.layer for reader in READERS}
    for reader, layer in layers.items():
        seen = 0
        try:
            async for finding in census.findings(reader):
                sums.setdefault((layer.value, finding.dataset, reader), Counter())[finding.fate] += 1
                seen += 1
                about = {"layer": layer.value, "dataset": finding.dataset, "reader": reader}
                if finding.fate is Fate.ORPHAN:
                    since = finding.info.last_modified.astimezone(UTC).isoformat()
                    yield {"orphan": {**about, "uri": finding.info.uri, "since": since, "reason": finding.reason}}
                if seen % PROGRESS_EVERY == 0:
                    yield {"progress": {**about, "seen": seen}}
            if reader in PLANNING:  # also those of which no object is left
                for dataset in workshop.registry:
                    if (reader, dataset) not in census.open_plans:
                        await census.look_at_plans(reader, dataset, None)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(
                f"{reader}: something in LEDGER can't be read, so its objects are not all counted: {error!r}"
            )
        yield {"progress": {"layer": layer.value, "dataset": None, "reader": reader, "seen": seen}}
    counted = [
        {"layer": layer, "dataset": dataset, "reader": reader, "objects": fates.total()}
        | {fate.value: fates[fate] for fate in Fate}
        for (layer, dataset, reader), fates in sums.items()
    ]
    orphans = sum(fates[Fate.ORPHAN] for fates in sums.values())
    unsettled = _unsettled(sums, census)
    queues = await depths(workshop, topology)
    unsettled += [f"{name} holds {waiting} messages" for name, waiting in queues.items() if waiting]
    if orphans:
        problems.append(f"{orphans} orphan{'' if orphans == 1 else 's'}: nobody is at work on that")
    if settled:
        problems += unsettled
    yield {
        "result": {
            "settled": not unsettled,
            "ok": not problems,
            "sums": counted,
            "queues": queues,
            "problems": problems,
        }
    }


def _unsettled(sums: Mapping[tuple[str, str, str], Counter[Fate]], census: Census) -> list[str]:
    flying = [
        f"{fates[Fate.IN_FLIGHT]} objects of {dataset} in {layer} are in flight at {reader}"
        for (layer, dataset, reader), fates in sums.items()
        if fates[Fate.IN_FLIGHT]
    ]
    return flying + [
        f"{len(stems)} plans of {dataset} are open at {stage}"
        for (stage, dataset), stems in census.open_plans.items()
        if stems
    ]


async def depths(workshop: Workshop, topology: Topology) -> dict[str, int]:
    """Messages that wait, by queue: live, replay, rungs, dead, audit."""
    names = [name for queue in topology.queues for name in (queue.name, *queue.rungs)]
    slots = asyncio.Semaphore(QUEUES_AT_ONCE)

    async def depth(name: str) -> int:
        async with slots:
            return await workshop.bus.depth(name)

    return dict(zip(names, await asyncio.gather(*map(depth, names)), strict=True))


def _queues_of(stage: str, topology: Topology) -> list[str]:
    """Where a message for the stage may wait."""
    live = topology.queue(next(reader.queue for reader in READERS if reader.stage == stage))
    return [live.name, replay_queue(stage), *live.rungs]
