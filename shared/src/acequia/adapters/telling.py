"""Tells the bus of new objects where the object store can't: in a folder, or in buckets that notify somebody else."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from acequia.errors import TransientFailure
from acequia.events import ObjectCreated, to_notification
from acequia.layers import Buckets, Layer
from acequia.ports import Bus, Message, ObjectInfo, ObjectStore
from acequia.topology import OBJECTS, Notification, Topology

log = logging.getLogger(__name__)


class Teller:
    """Publishes to the exchange OBJECTS what a store with notifications would, once `notifications` are set."""

    def __init__(self, bus: Bus, buckets: Buckets) -> None:
        self._bus = bus
        self._buckets = buckets
        self.notifications: Sequence[Notification] = ()

    async def tell(self, info: ObjectInfo) -> None:
        """Of an object that was just written. The event may be lost, as with any store: the reconciler finds it."""
        for notification in self.notifications:
            if notification.layer is not info.layer or not info.key.endswith(notification.suffix):
                continue
            event = ObjectCreated(
                layer=info.layer,
                bucket=self._buckets.of(info.layer),
                key=info.key,
                etag=info.etag,
                size=info.bytes,
                metadata=info.metadata,
            )
            try:
                await self._bus.publish(OBJECTS, notification.routing_key, Message(body=to_notification(event)))
            except TransientFailure as failure:
                log.warning("the event of %s is lost, the reconciler will bring it: %s", info.uri, failure)


class TellingStore:
    """`acequia.ports.ObjectStore` over another one, whose own notifications are left as they are.

    The bus hears of what is written through here, and of nothing else. So a process can work by itself on the buckets
    of an installation: both hear of its objects, and whoever is first makes what follows from them.
    """

    def __init__(self, store: ObjectStore, buckets: Buckets, bus: Bus) -> None:
        self._store = store
        self._teller = Teller(bus, buckets)

    async def head(self, layer: Layer, key: str) -> ObjectInfo | None:
        return await self._store.head(layer, key)

    async def get(self, layer: Layer, key: str, to: Path, *, etag: str | None = None) -> ObjectInfo:
        return await self._store.get(layer, key, to, etag=etag)

    async def read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        return await self._store.read(layer, key)

    async def put(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo:
        info = await self._store.put(layer, key, data, metadata=metadata, content_type=content_type)
        await self._teller.tell(info)
        return info

    async def create(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo | None:
        info = await self._store.create(layer, key, data, metadata=metadata, content_type=content_type)
        if info is not None:
            await self._teller.tell(info)
        return info

    async def replace(
        self,
        layer: Layer,
        key: str,
        data: bytes,
        *,
        etag: str,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo | None:
        info = await self._store.replace(layer, key, data, etag=etag, metadata=metadata, content_type=content_type)
        if info is not None:
            await self._teller.tell(info)
        return info

    async def upload(
        self,
        layer: Layer,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo:
        info = await self._store.upload(layer, key, chunks, metadata=metadata, content_type=content_type)
        await self._teller.tell(info)
        return info

    def list_objects(self, layer: Layer, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        return self._store.list_objects(layer, prefix, start_after=start_after)

    async def list_folders(self, layer: Layer, prefix: str = "") -> list[str]:
        return await self._store.list_folders(layer, prefix)

    async def remove(self, layer: Layer, key: str) -> None:
        await self._store.remove(layer, key)

    async def apply(self, topology: Topology) -> None:
        """Make buckets. The store's notifications stay as they are: they are the installation's, if there is one."""
        await self._store.apply(replace(topology, notifications=()))
        self._teller.notifications = tuple(topology.notifications)

    async def check(self) -> None:
        await self._store.check()

    async def close(self) -> None:
        await self._store.close()
