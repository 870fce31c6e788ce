"""The broker: address, login, version, what is declared and how, who consumes, what waits, dead-lettering."""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from acequia.adapters.rabbit import queue_arguments
from acequia.adapters.rabbit_probe import QueueLook, RabbitProbe
from acequia.errors import AcequiaError
from acequia.events import ObjectCreated, to_notification
from acequia.layers import CANARY_PREFIX, Layer
from acequia.ports import ObjectStore
from acequia.topology import OBJECTS, Queue, Topology
from acequia_cli.doctor.findings import Chart

ADDRESS, LOGIN, VERSION = "broker address", "broker login", "broker version"
EXCHANGES, QUEUES, BINDINGS = "exchanges", "queues", "bindings"
CONSUMERS, DEAD, LENGTH = "consumers", "dead letters", "queue lengths"
DEAD_LETTERING = "dead-lettering"
AFTER_LOGIN = (VERSION, EXCHANGES, QUEUES, BINDINGS, CONSUMERS, DEAD, LENGTH, DEAD_LETTERING)

NEEDED = (3, 10)
BETWEEN_LOOKS = 3.0
"""Seconds between two looks at a queue: a stage that paused is back, the auditor has taken what is dead."""
NAMED_MOST = 6
"""Missing queues that are named."""
LONG = 1000
"""Messages from which a queue is called long: from there the reconciler sends nothing again."""
SIGN_OF_LIFE = timedelta(seconds=60)
"""Who renews a plan's start is at work on it, and consumes nothing meanwhile."""
PLANNING = ("trainer", "lakehouse")
"""Stages whose work is planned."""
DEAD_LETTER_SECONDS = 10.0

START_BROKER = "start RabbitMQ, or set RABBITMQ_URL to its address as this machine reaches it"
AGAIN = (
    "see that the broker stays up and has disk and memory left (`rabbitmqctl status` shows alarms), and run the doctor "
    "again"
)
URL_WANTED = (
    "set RABBITMQ_URL to amqp://user:password@host:5672/vhost, with user and password percent-encoded (`/` is %2F, "
    "`#` is %23, `@` is %40)"
)
START_A_SERVICE = "start a service, or start one anew: each declares all of it (`docker compose restart ingestor`)"


async def examine_broker(chart: Chart, bus: RabbitProbe, table: Topology) -> bool:
    """Whether the broker is there and takes our login."""
    with chart.examining(ADDRESS, START_BROKER):
        await bus.reach()
        chart.ok(ADDRESS, "a broker answers")
    if chart.failed(ADDRESS):
        chart.skip((LOGIN, *AFTER_LOGIN), f"{ADDRESS} failed")
        return False
    version = ""
    with chart.examining(LOGIN, START_BROKER):
        version = await bus.version()
        chart.ok(LOGIN, "the broker takes user, password and virtual host of RABBITMQ_URL")
    if chart.failed(LOGIN):
        chart.skip(AFTER_LOGIN, f"{LOGIN} failed")
        return False
    tell_version(chart, version)
    await _examine_exchanges(chart, bus, table)
    await _examine_queues(chart, bus, table)
    await _examine_bindings(chart, bus, table)
    return True


def tell_version(chart: Chart, version: str) -> None:
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if len(numbers) == 2 and numbers < NEEDED:
        chart.fail(
            VERSION,
            f"RabbitMQ is {version}, and its quorum queues can not dead-letter at least once: messages may get lost",
            "install RabbitMQ 3.10 or newer",
        )
    else:
        chart.ok(VERSION, f"RabbitMQ {version or 'of a version that it does not tell'}")


async def _examine_exchanges(chart: Chart, bus: RabbitProbe, table: Topology) -> None:
    with chart.examining(EXCHANGES, AGAIN):
        missing, differing = [], []
        for exchange in table.exchanges:
            try:
                difference = await bus.compare_exchange(exchange)
            except KeyError:
                missing.append(exchange.name)
                continue
            if difference:
                differing.append(f"{exchange.name} is not a durable {exchange.type} exchange ({difference})")
        if differing:
            chart.fail(
                EXCHANGES,
                "; ".join(differing),
                "stop the services, delete it (the broker's management pages, or `rabbitmqadmin delete exchange "
                "name=...`), see that MinIO has MINIO_NOTIFY_AMQP_EXCHANGE_TYPE_<ID>=topic and _DURABLE_<ID>=on, which "
                "declares it too, and start the services: they make it anew",
            )
        elif missing:
            chart.fail(EXCHANGES, f"missing: {', '.join(missing)}", START_A_SERVICE)
        else:
            chart.ok(EXCHANGES, f"{', '.join(exchange.name for exchange in table.exchanges)}: durable, of their type")


async def _examine_queues(chart: Chart, bus: RabbitProbe, table: Topology) -> None:
    wanted: dict[str, Mapping[str, Any]] = {
        name: arguments for queue in table.queues for name, arguments in queue_arguments(queue).items()
    }
    with chart.examining(QUEUES, AGAIN):
        missing: list[str] = []
        differing: dict[str, str] = {}
        for name, arguments in wanted.items():
            try:
                difference = await bus.compare_queue(name, arguments)
            except KeyError:
                missing.append(name)
                continue
            if difference:
                differing[name] = difference
        if differing:
            chart.fail(
                QUEUES,
                "; ".join(explain_queue(name, difference) for name, difference in differing.items())
                + (f"; {tell_missing(missing, len(wanted))}" if missing else ""),
                "stop the services, and for each: when it is empty, or what lies in it may go (the reconciler finds "
                "objects again), "
                + ", ".join(f"`rabbitmqctl delete_queue {name}`" for name in differing)
                + "; start the services: they make it anew. ACEQUIA_RETRY_DELAYS must be the same everywhere",
            )
        elif missing:
            rungs = any(".retry." in name for name in missing) and len(missing) < len(wanted)
            more = "; ACEQUIA_RETRY_DELAYS must be the same here and at every service" if rungs else ""
            chart.fail(QUEUES, tell_missing(missing, len(wanted)), START_A_SERVICE + more)
        else:
            chart.ok(QUEUES, f"all {len(wanted)} are there, with their arguments")


def tell_missing(missing: Sequence[str], wanted: int) -> str:
    if len(missing) == wanted:
        return f"none of the {wanted} queues is there: no service has run on this broker yet"
    more = f" and {len(missing) - NAMED_MOST} more" if len(missing) > NAMED_MOST else ""
    return f"missing: {', '.join(missing[:NAMED_MOST])}{more}"


def explain_queue(name: str, difference: str) -> str:
    """What the broker says of an argument, in plain words, with its own at the end."""
    found = re.search(r"inequivalent arg '([^']+)'", difference)
    argument = found[1] if found else ""
    plain = {
        "x-dead-letter-exchange": "has no dead-letter exchange, or another: what fails there is thrown away",
        "x-dead-letter-routing-key": "sends its dead letters elsewhere",
        "x-dead-letter-strategy": "may lose its dead letters (not at-least-once)",
        "x-overflow": "throws messages away when it is full",
        "x-queue-type": "is not a quorum queue: it may lose messages when the broker crashes",
        "type": "is not a quorum queue: it may lose messages when the broker crashes",
        "durable": "does not survive a restart of the broker",
        "x-delivery-limit": "has another limit of deliveries",
        "x-message-ttl": "lets messages wait for another time",
        "x-max-length": "holds another number of messages at most",
    }.get(argument, "is declared in another way than it has to be")
    return f"{name} {plain} ({difference})"


async def _examine_bindings(chart: Chart, bus: RabbitProbe, table: Topology) -> None:
    """A canary's event for each layer, which the broker returns where no queue is bound."""
    if chart.failed(EXCHANGES):
        chart.skip((BINDINGS,), f"{EXCHANGES} failed")
        return
    with chart.examining(BINDINGS, AGAIN):
        loose = []
        for notification in table.notifications:
            bucket = table.buckets.of(notification.layer)
            key = f"{CANARY_PREFIX}{uuid4().hex}"
            event = to_notification(ObjectCreated(layer=notification.layer, bucket=bucket, key=key, etag="0"))
            if not await bus.leads_somewhere(OBJECTS, notification.routing_key, event):
                loose.append(notification.routing_key)
        if loose:
            chart.fail(
                BINDINGS,
                f"no queue is bound to {OBJECTS} for {', '.join(loose)}: such events are thrown away",
                START_A_SERVICE,
            )
        else:
            chart.ok(BINDINGS, f"{OBJECTS} leads to a queue for each layer's events")


async def examine_traffic(
    chart: Chart, bus: RabbitProbe, store: ObjectStore | None, table: Topology, *, pause: float
) -> None:
    """Who consumes, what is dead, what waits: two looks, some seconds apart."""
    first: Mapping[str, QueueLook] = {}
    second: Mapping[str, QueueLook] = {}
    with chart.examining(CONSUMERS, AGAIN):
        first = await _look(bus, table.queues)
        await asyncio.sleep(pause)
        second = await _look(bus, table.queues)
    if chart.failed(CONSUMERS):
        chart.skip((DEAD, LENGTH), f"{CONSUMERS} failed")
        return
    working = [queue for queue in table.queues if queue.dead is not None and queue.rungs_of is None]
    there = [queue for queue in working if queue.name in first and queue.name in second]
    idle = [q.stage for q in there if not (first[q.name].consumers or second[q.name].consumers)]
    planning = {s for s in idle if s in PLANNING and store is not None and await _is_at_a_plan(store, s)}
    idle = [stage for stage in idle if stage not in planning]
    if not there:
        chart.skip((CONSUMERS, DEAD, LENGTH), "there are no queues")
        return
    if not idle and len(there) < len(working):
        chart.skip((CONSUMERS,), "there are queues missing")
    else:
        tell_consumers(chart, idle, planning)
    tell_dead(chart, table, first, second)
    tell_lengths(chart, [queue.name for queue in there], first, second)


async def _look(bus: RabbitProbe, queues: Sequence[Queue]) -> dict[str, QueueLook]:
    """Queues that are missing are left out."""
    looks = {queue.name: await bus.look(queue.name) for queue in queues}
    return {name: look for name, look in looks.items() if look is not None}


async def _is_at_a_plan(store: ObjectStore, stage: str) -> bool:
    """Whether someone renewed the start of a plan of the stage's just now."""
    now = datetime.now(UTC)
    try:
        async for info in store.list_objects(Layer.LEDGER, f"plans/{stage}/"):
            if ".start-" in info.key and now - info.last_modified < SIGN_OF_LIFE:
                return True
    except AcequiaError:
        return False
    return False


def tell_consumers(chart: Chart, idle: Sequence[str], at_a_plan: Collection[str]) -> None:
    """`idle`: stages whose queue nobody consumes."""
    if idle:
        chart.fail(
            CONSUMERS,
            f"nobody consumes the queue of: {', '.join(idle)}",
            f"start it (`docker compose up -d {' '.join(idle)}`); if it runs, its /ready and log say what it waits for",
        )
    else:
        working = "".join(
            f"; the {stage} is at a plan, and consumes when that has ended" for stage in sorted(at_a_plan)
        )
        chart.ok(CONSUMERS, f"each stage's queue has one{working}")


def tell_dead(chart: Chart, table: Topology, first: Mapping[str, QueueLook], second: Mapping[str, QueueLook]) -> None:
    """Dead letters that did not get fewer between the looks: the auditor does not take them."""
    names = [q.name for q in table.queues if q.dead is None and q.name in first and q.name in second]
    left = {n: second[n].messages for n in names if 0 < first[n].messages <= second[n].messages}
    if left:
        counts = ", ".join(f"{count} in {name}" for name, count in left.items())
        chart.fail(
            DEAD,
            f"{counts}: the auditor does not take them, so that nobody can see or replay them",
            "start the auditor (`docker compose up -d auditor`); if it runs, its /ready and log say what it waits for",
        )
    else:
        chart.ok(DEAD, "none waits in a queue (`acequia dlq list` shows those that were taken)")


def tell_lengths(
    chart: Chart, working: Sequence[str], first: Mapping[str, QueueLook], second: Mapping[str, QueueLook]
) -> None:
    long = {name: look for name, look in second.items() if name in working and look.messages > LONG}
    if long:
        grows = {name for name, look in long.items() if name in first and look.messages > first[name].messages}
        chart.warn(
            LENGTH,
            "; ".join(
                f"{look.messages:,} messages wait in {name}{' and they get more' if name in grows else ''}"
                for name, look in long.items()
            ),
            "wait, or start replicas of the stage (`docker compose up -d --scale transformer=3`), or raise "
            "ACEQUIA_CONCURRENCY",
        )
    else:
        chart.ok(LENGTH, f"none of the stages' queues holds more than {LONG:,} messages")


async def examine_dead_lettering(chart: Chart, bus: RabbitProbe) -> None:
    mend = (
        "restart the broker's node: the supervisor of its dead-letter workers has given up (rabbitmq-server issue "
        "16652); its log says so. Until then no retry comes back"
    )
    with chart.examining(DEAD_LETTERING, mend):
        if await bus.dead_letters_arrive(DEAD_LETTER_SECONDS):
            chart.ok(DEAD_LETTERING, "a message whose time was up came to where it had to (at-least-once)")
        else:
            chart.fail(DEAD_LETTERING, "a message whose time was up did not come to where it had to", mend)
