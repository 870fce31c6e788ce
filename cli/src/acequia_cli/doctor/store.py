"""The object store: address, credentials, clock, buckets, conditional writes, notifications and their targets."""

from collections.abc import Sequence
from uuid import uuid4

from acequia.adapters.minio_probe import MinioProbe, Standing
from acequia.layers import CANARY_PREFIX, Layer
from acequia.topology import Notification, Topology
from acequia_cli.doctor.findings import Chart
from acequia_cli.doctor.here import examine_clock

ADDRESS, CLOCK, LOGIN = "store address", "store clock", "store login"
BUCKETS, WRITES = "buckets", "conditional writes"
TARGETS, NOTIFICATIONS = "notification targets", "notifications"
AFTER_ADDRESS = (CLOCK, LOGIN, BUCKETS, WRITES, TARGETS, NOTIFICATIONS)

START_MINIO = "start the store, or set MINIO_ENDPOINT to host:port of its S3 API as this machine reaches it"
LOOK_AFTER_STORE = "see that the store stays up and has space left on its disk, and run the doctor again"
START_A_SERVICE = (
    "start a service, or start one anew: each makes all of it at its start (`docker compose restart ingestor`)"
)


async def examine_store(chart: Chart, store: MinioProbe, table: Topology) -> Sequence[Notification]:
    """The notifications that stand as they should: those layers' events can be waited for."""
    with chart.examining(ADDRESS, START_MINIO):
        ahead = await store.reach()
        chart.ok(ADDRESS, "an S3 API answers")
    if chart.failed(ADDRESS):
        chart.skip(AFTER_ADDRESS, f"{ADDRESS} failed")
        return ()
    examine_clock(chart, CLOCK, ahead, "the store")
    missing: list[Layer] = []
    with chart.examining(LOGIN, START_MINIO):
        missing = [layer for layer in table.layers if not await store.find_bucket(layer)]
        chart.ok(LOGIN, "the store takes MINIO_ACCESS_KEY and MINIO_SECRET_KEY")
    if chart.failed(LOGIN):
        chart.skip((BUCKETS, WRITES, TARGETS, NOTIFICATIONS), f"{LOGIN} failed")
        return ()
    _tell_buckets(chart, table, missing)
    if Layer.LEDGER in missing:
        chart.skip((WRITES,), f"there is no bucket {table.buckets.of(Layer.LEDGER)}")
    else:
        await _examine_writes(chart, store)
    await _examine_targets(chart, store, table)
    return await _examine_notifications(chart, store, table, missing)


def _tell_buckets(chart: Chart, table: Topology, missing: Sequence[Layer]) -> None:
    names = ", ".join(table.buckets.of(layer) for layer in missing)
    if not missing:
        chart.ok(BUCKETS, f"all {len(table.layers)} are there ({table.buckets.prefix}-...)")
    elif len(missing) == len(table.layers):
        chart.fail(
            BUCKETS,
            f"no bucket {table.buckets.prefix}-... is there: no service has run on this store, or under another prefix",
            f"start a service, which makes them, or set ACEQUIA_BUCKET_PREFIX (now {table.buckets.prefix})",
        )
    else:
        chart.fail(BUCKETS, f"missing: {names}", START_A_SERVICE)


async def _examine_writes(chart: Chart, store: MinioProbe) -> None:
    """A canary is created, created again (which must be refused), read and removed."""
    key = f"{CANARY_PREFIX}{uuid4().hex}.json"
    with chart.examining(WRITES, LOOK_AFTER_STORE):
        try:
            await store.create(Layer.LEDGER, key, b"1", metadata={}, content_type="application/json")
            again = await store.create(Layer.LEDGER, key, b"2", metadata={}, content_type="application/json")
            found = await store.read(Layer.LEDGER, key)
        finally:
            await store.remove(Layer.LEDGER, key)
        if again is not None or found is None or found[0] != b"1":
            chart.fail(
                WRITES,
                "the store ignores If-None-Match: two replicas could both write what only one may",
                "take a store that honours conditional writes (MinIO does), or a proxy away that drops the header",
            )
        else:
            chart.ok(WRITES, "of two writers of one object the second is refused (If-None-Match)")


async def _examine_targets(chart: Chart, store: MinioProbe, table: Topology) -> None:
    with chart.examining(TARGETS, LOOK_AFTER_STORE):
        unknown = await store.unknown_targets(table.notifications)
        if unknown is None:
            chart.skip((TARGETS,), "this user may not remove buckets, so no temporary one is made to try them on")
        elif unknown:
            ids = ", ".join(arn.split(":")[-2] for arn in unknown)
            chart.fail(
                TARGETS,
                f"the store does not know {', '.join(unknown)}",
                "give the MinIO server MINIO_NOTIFY_AMQP_ENABLE_<ID>=on (exactly `on`), _URL_, _EXCHANGE_ and so on "
                f"for {ids} (docs/minio.md) and restart it; set MINIO_NOTIFY_REGION here to its MINIO_REGION",
            )
        else:
            chart.ok(TARGETS, f"the store knows all {len(table.notifications)}")


async def _examine_notifications(
    chart: Chart, store: MinioProbe, table: Topology, missing: Sequence[Layer]
) -> Sequence[Notification]:
    right: list[Notification] = []
    wrong: list[str] = []
    with chart.examining(NOTIFICATIONS, LOOK_AFTER_STORE):
        for notification in table.notifications:
            bucket = table.buckets.of(notification.layer)
            if notification.layer in missing:
                wrong.append(f"{bucket} is not there")
                continue
            match await store.standing(notification):
                case Standing.RIGHT:
                    right.append(notification)
                case Standing.MISSING:
                    wrong.append(f"{bucket} tells nobody of new objects")
                case Standing.OTHER:
                    wrong.append(f"{bucket} has another target, suffix or events than it needs")
        if wrong:
            chart.fail(NOTIFICATIONS, "; ".join(wrong), START_A_SERVICE)
        else:
            chart.ok(NOTIFICATIONS, f"{', '.join(n.layer.value for n in right)}: each bucket tells of new objects")
    return right
