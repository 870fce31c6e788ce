"""Low-water marks: before which time everything is settled at a reader, so that a sweep begins there.

A mark is sound by itself: it says what its writer saw, and what is settled stays so. Two reconcilers may write over
each other's. What comes to lie behind a mark all the same (a file that waited for its content to come again, what a
person brings back) is found by the next full sweep.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from acequia.layers import Layer
from acequia.ports import ObjectStore
from acequia.runner import JSON

log = logging.getLogger("acequia")


def mark_key(reader: str) -> str:
    return f"marks/{reader}.json"


@dataclass(slots=True)
class Marks:
    """`marks/<reader>.json` in LEDGER."""

    reader: str
    full_at: datetime | None = None
    """When the last full sweep of this reader began."""
    datasets: dict[str, datetime] = field(default_factory=dict)
    """By folder of the layer: objects whose stems say an earlier time are settled."""

    @classmethod
    async def read(cls, store: ObjectStore, reader: str) -> "Marks":
        """What stands; nothing, where nothing stands that this version knows."""
        found = await store.read(Layer.LEDGER, mark_key(reader))
        if found is None:
            return cls(reader)
        try:
            document = json.loads(found[0])
            told = document["full_at"]
            full_at = datetime.fromisoformat(told).astimezone(UTC) if told else None
            datasets = {name: datetime.fromisoformat(at).astimezone(UTC) for name, at in document["datasets"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s holds no marks that this version knows: everything is looked at", mark_key(reader))
            return cls(reader)
        return cls(reader, full_at, datasets)

    def believed(self, now: datetime, latest: datetime) -> "Marks":
        """Without what only a clock that was ahead can have written: marks later than `latest`, a sweep after `now`."""
        full_at = self.full_at if self.full_at and self.full_at <= now else None
        return Marks(self.reader, full_at, {name: at for name, at in self.datasets.items() if at <= latest})

    async def write(self, store: ObjectStore) -> None:
        document: Mapping[str, object] = {
            "schema_version": 1,
            "reader": self.reader,
            "full_at": self.full_at.isoformat() if self.full_at else None,
            "datasets": {name: at.isoformat() for name, at in sorted(self.datasets.items())},
        }
        body = json.dumps(document, indent=1).encode()
        await store.put(Layer.LEDGER, mark_key(self.reader), body, metadata={}, content_type=JSON)
