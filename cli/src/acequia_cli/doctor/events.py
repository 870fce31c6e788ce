"""The path of an event: a canary object into each notified layer, and who hears of it at the broker."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from acequia.adapters.minio_probe import MinioProbe
from acequia.adapters.rabbit_probe import Heard, RabbitProbe
from acequia.layers import CANARY_PREFIX, Buckets
from acequia.topology import OBJECTS, Notification
from acequia_cli.doctor.findings import Chart

EVENTS = "events"
PATIENCE = 6.0
"""Seconds until an event counts as lost. With QUEUE_DIR it comes up to three seconds late."""
BETWEEN_ROUNDS = 1.0
LATE = 0.9
"""Seconds. With QUEUE_DIR MinIO sends every three seconds what it gathered: of two objects a second apart one is later
than this."""


@dataclass(slots=True)
class Canary:
    """An object that means nothing: the services pass over what lies below `_doctor/`."""

    notification: Notification
    token: str = field(default_factory=lambda: uuid4().hex)
    put_at: float = 0.0
    """When the store had it, by the event loop's clock."""

    @property
    def key(self) -> str:
        suffix = self.notification.suffix or ".canary"
        return f"{CANARY_PREFIX}{self.token}{suffix if suffix.startswith('.') else f'/{suffix}'}"


async def examine_events(
    chart: Chart,
    store: MinioProbe,
    bus: RabbitProbe,
    notifications: Sequence[Notification],
    buckets: Buckets,
    *,
    patience: float,
) -> None:
    """Two canaries into each of the layers; the queue that hears of them goes with the connection."""
    rounds = [[Canary(notification) for notification in notifications] for _ in range(2)]
    canaries = [canary for one in rounds for canary in one]
    with chart.examining(EVENTS, "see that the store and the broker stay up, and run the doctor again"):
        async with bus.listen(OBJECTS) as heard:
            try:
                for one in rounds:
                    await _put(store, one)
                    await asyncio.sleep(BETWEEN_ROUNDS if one is not rounds[-1] else 0)
                came = await _hear(heard, canaries, patience)
            finally:
                for canary in canaries:
                    await store.remove(canary.notification.layer, canary.key)
        for pair in zip(*rounds, strict=True):
            tell_events(chart, pair, came, buckets, patience)


async def _put(store: MinioProbe, canaries: Sequence[Canary]) -> None:
    loop = asyncio.get_running_loop()
    for canary in canaries:
        layer = canary.notification.layer
        await store.put(layer, canary.key, b"canary", metadata={}, content_type="application/octet-stream")
        canary.put_at = loop.time()


async def _hear(heard: "asyncio.Queue[Heard]", canaries: Sequence[Canary], patience: float) -> dict[str, Heard]:
    """The canaries' events by token; what else comes by is passed over."""
    came: dict[str, Heard] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while len(came) < len(canaries):
                event = await heard.get()
                came |= {c.token: event for c in canaries if c.token.encode() in event.body and c.token not in came}
    return came


def tell_events(
    chart: Chart, canaries: Sequence[Canary], came: Mapping[str, Heard], buckets: Buckets, patience: float
) -> None:
    """`canaries`: of one layer. `came`: by token."""
    notification = canaries[0].notification
    events = [came[canary.token] for canary in canaries if canary.token in came]
    late = max((came[c.token].at - c.put_at for c in canaries if c.token in came), default=0.0)
    layer, target = notification.layer, notification.target
    check = f"{EVENTS} of {layer.value}"
    where = f"an object was put into {buckets.of(layer)}"
    if not events:
        chart.fail(
            check,
            f"{where} and nothing came to the exchange {OBJECTS} within {patience:g} s: the store's target {target} "
            "has a wrong flag, exchange or broker",
            f"on the MinIO server set MINIO_NOTIFY_AMQP_EXCHANGE_{target}={OBJECTS}, _EXCHANGE_TYPE_{target}=topic, "
            f"_DURABLE_{target}=on (flags are exactly `on`), _URL_{target} as that server reaches the broker that "
            "RABBITMQ_URL names, and restart it; its log says what the broker refused",
        )
    elif others := sorted({event.routing_key for event in events} - {notification.routing_key}):
        chart.fail(
            check,
            f"{where} and its event came with the routing key {others[0]!r} instead of "
            f"{notification.routing_key!r}: it goes to another stage, or to none",
            f"on the MinIO server set MINIO_NOTIFY_AMQP_ROUTING_KEY_{target}={notification.routing_key} and restart it",
        )
    elif len(events) < len(canaries):
        chart.warn(
            check,
            f"{len(canaries)} objects were put into {buckets.of(layer)}, and {len(events)} events came within "
            f"{patience:g} s",
            "see the MinIO server's log: it says which events the broker refused; the reconciler makes up for them",
        )
    elif late > LATE:
        chart.warn(
            check,
            f"{where} and its event came {late:.1f} s after it",
            f"on the MinIO server drop MINIO_NOTIFY_AMQP_QUEUE_DIR_{target}, set MINIO_API_SYNC_EVENTS=on and restart "
            "it",
        )
    elif not all(event.persistent for event in events):
        chart.warn(
            check,
            f"{where} and its event came marked as transient",
            f"on the MinIO server set MINIO_NOTIFY_AMQP_DELIVERY_MODE_{target}=2 and restart it",
        )
    else:
        chart.ok(
            check, f"came with {notification.routing_key}, {max(0.0, late) * 1000:.0f} ms after the object at most"
        )
