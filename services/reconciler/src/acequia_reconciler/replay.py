"""Sends objects of a layer to their reader once more, on the path that waits until no other work does."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from acequia.errors import QueueFull
from acequia.events import utc_now
from acequia.layers import Layer, Name
from acequia.runner import Variants, Workshop, event_again, newest_variant
from acequia.topology import READERS, WRITES, Reader, Topology, replay_queue
from acequia_reconciler.census import Census, Fate, Finding

PROGRESS_EVERY = 1000
ROOM_SECONDS = 1.0
"""Between two tries while the replay queue is full."""


class Replay(BaseModel):
    """What to send again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: Annotated[str, Field(description="landing, raw, silver or models")]
    dataset: str
    since: Annotated[datetime | None, Field(description="By the time in the object's name (UTC)")] = None
    until: Annotated[datetime | None, Field(description="Before this time")] = None
    only_missing: Annotated[bool, Field(description="Only objects without an outcome of any variant")] = False
    stale: Annotated[bool, Field(description="Only objects that the current variant has not made, anew")] = False
    dry_run: Annotated[bool, Field(description="Only name the objects")] = False

    @field_validator("since", "until")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def readers_of(layer: Layer) -> list[Reader]:
    return [reader for reader in READERS if reader.layer is layer]


@dataclass(slots=True)
class _Counts:
    seen: int = 0
    matched: int = 0
    sent: int = 0
    dead: int = 0

    def document(self, kind: str) -> Mapping[str, Any]:
        return {kind: {"seen": self.seen, "matched": self.matched, "sent": self.sent, "dead": self.dead}}


@dataclass(slots=True)
class _Stem:
    """The objects of one stem: readers take the newest variant of them."""

    text: str = ""
    findings: list[Finding] = field(default_factory=list)


async def replay(workshop: Workshop, topology: Topology, asked: Replay) -> AsyncIterator[Mapping[str, Any]]:
    """Send what `asked` says. Documents: `progress`, in a dry run `object`, and last `result`.

    `result`: `seen` objects of these times, `matched` of them were meant, `sent`, and `dead` ones left alone, for which
    `acequia dlq replay` is there. While the replay queue is full it waits. Raises as store and bus do.
    """
    layer = Layer(asked.layer)
    for reader in readers_of(layer):
        counts = _Counts()
        async for document in _replay(workshop, topology, asked, reader, counts):
            yield document
        yield counts.document("result")


async def _replay(
    workshop: Workshop, topology: Topology, asked: Replay, reader: Reader, counts: _Counts
) -> AsyncIterator[Mapping[str, Any]]:
    queue, store, buckets = replay_queue(reader.stage), workshop.store, workshop.buckets
    async for finding in _meant(workshop, topology, asked, reader, counts):
        counts.matched += 1
        info, since = finding.info, utc_now() if asked.stale else None
        if asked.dry_run:
            yield {"object": {"uri": info.uri}}
        elif (message := await event_again(store, buckets, info.layer, info.key, stale_since=since)) is not None:
            while True:
                try:
                    await workshop.bus.publish("", queue, message)
                    break
                except QueueFull:
                    yield counts.document("progress")
                    await asyncio.sleep(ROOM_SECONDS)
            counts.sent += 1
        if counts.matched % PROGRESS_EVERY == 0:
            yield counts.document("progress")


async def _meant(
    workshop: Workshop, topology: Topology, asked: Replay, reader: Reader, counts: _Counts
) -> AsyncIterator[Finding]:
    """What is to be sent: of each stem the object that readers take."""
    opened = asked.stale or (reader.layer is Layer.LANDING and not asked.only_missing)
    census = Census(workshop, topology, outputs=opened)
    writer = next((stage for stage, layer in WRITES.items() if layer is reader.layer), reader.stage)
    written = await Variants(workshop.store, writer).known()
    known = await Variants(workshop.store, reader.stage).known()
    current = newest_variant(known, known) if known else None

    def is_meant(finding: Finding) -> bool:
        if finding.fate is Fate.DEAD:
            counts.dead += 1
            return False
        if finding.fate in (Fate.NOT_APPLICABLE, Fate.IN_FLIGHT):
            return False
        if asked.only_missing:
            return finding.fate is Fate.ORPHAN and not finding.broken
        return not asked.stale or current not in finding.variants or not finding.taken

    stem = _Stem()
    async for finding in census.of_dataset(reader.stage, asked.dataset, asked.since):
        if (asked.since and finding.at < asked.since) or (asked.until and finding.at >= asked.until):
            continue
        counts.seen += 1
        name = Name.of_key(finding.info.key) if reader.layer is not Layer.LANDING else None
        text = str(name.stem) if name else finding.info.key
        if text != stem.text:
            if stem.findings and is_meant(newest := _newest(stem.findings, written)):
                yield newest
            stem = _Stem(text)
        stem.findings.append(finding)
    if stem.findings and is_meant(newest := _newest(stem.findings, written)):
        yield newest


def _newest(findings: list[Finding], variants: tuple[str, ...]) -> Finding:
    by_variant = {(name.variant or "") if (name := Name.of_key(f.info.key)) else "": f for f in findings}
    if len(by_variant) == 1:
        return findings[-1]
    return by_variant[newest_variant(variants, [v for v in by_variant if v])]
