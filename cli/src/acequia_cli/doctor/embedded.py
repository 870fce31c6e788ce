"""The embedded installation: its folder, who owns it, versions, PostgreSQL, and a canary through store and bus."""

import asyncio
import platform
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import uuid4

from acequia.adapters.directory import DirectoryStore
from acequia.adapters.sqlite import SqliteBus
from acequia.errors import AcequiaError, ConfigurationError
from acequia.layers import CANARY_PREFIX, Layer
from acequia.settings import AcequiaSettings
from acequia.topology import READERS, topology
from acequia_auditor.probe import look_at_database
from acequia_cli.doctor.findings import Chart
from acequia_cli.doctor.here import examine_folder
from acequia_cli.doctor.services import examine_services
from acequia_cli.owner import owner_url
from acequia_cli.postgres import EmbeddedPostgres

FOLDER, OPENS, VERSIONS = "folder", "installation", "versions"
POSTGRES, CANARY = "postgresql", "canary"
PACKAGES = ("cli", "ingestor", "transformer", "trainer", "evaluator", "lakehouse", "auditor", "reconciler")


async def examine_embedded(chart: Chart, data: Path, settings: AcequiaSettings) -> None:
    """`data` itself where there is an installation, else a folder beside it that goes at the end."""
    _examine_versions(chart)
    there = data.is_dir()
    above = next(folder for folder in (data, *data.absolute().parents) if folder.is_dir())
    examine_folder(chart, FOLDER, above, "--data")
    if chart.failed(FOLDER):
        chart.skip((OPENS, POSTGRES, CANARY), f"{FOLDER} failed")
        return
    if not there:
        chart.ok(OPENS, f"there is no installation in {data} yet: what follows is tried in a folder that goes again")
        with tempfile.TemporaryDirectory(prefix=".acequia-doctor-", dir=above) as name:
            Path(name).chmod(0o711)  # started by root, PostgreSQL runs as a user of its own, which has to get in
            await _examine_inside(chart, Path(name) / "data", settings)
        return
    if (url := await asyncio.to_thread(owner_url, data)) is not None:
        chart.ok(OPENS, f"`acequia up` serves it at {url}: its parts are asked there")
        await examine_services(chart, url)
        chart.skip((POSTGRES, CANARY), f"the process at {url} owns the folder")
        return
    await _examine_inside(chart, data, settings)


def _examine_versions(chart: Chart) -> None:
    found: dict[str, list[str]] = {}
    for name in ("acequia", *(f"acequia-{part}" for part in PACKAGES)):
        try:
            found.setdefault(version(name), []).append(name)
        except PackageNotFoundError:
            found.setdefault("not installed", []).append(name)
    if len(found) > 1:
        told = "; ".join(f"{', '.join(names)}: {number}" for number, names in found.items())
        chart.fail(VERSIONS, f"the packages do not belong together: {told}", "install them all anew, of one version")
    else:
        chart.ok(VERSIONS, f"acequia {next(iter(found))}, Python {platform.python_version()}")


async def _examine_inside(chart: Chart, data: Path, settings: AcequiaSettings) -> None:
    """Be the folder's owner for a moment."""
    fresh = not data.is_dir()
    try:
        async with _owning(data, settings) as (store, bus):
            if not fresh:
                chart.ok(OPENS, f"nobody else works in {data}")
            await _examine_canary(chart, store, bus, settings)
            await _examine_postgres(chart, data, fresh=fresh)
    except (AcequiaError, OSError) as error:
        chart.fail(
            OPENS,
            str(error),
            "wait for the process that has it, or end it (SIGTERM), or name another folder with --data; if a file in "
            "it is broken, move the file away: what waited in bus.sqlite is found again by the sweep of the next start",
        )
        chart.skip((CANARY, POSTGRES), f"{OPENS} failed")


@asynccontextmanager
async def _owning(data: Path, settings: AcequiaSettings) -> AsyncIterator[tuple[DirectoryStore, SqliteBus]]:
    data.mkdir(parents=True, exist_ok=True)
    bus = await SqliteBus.open(data / "bus.sqlite")
    try:
        store = await DirectoryStore.open(data / "store", settings.buckets, bus)
        try:
            table = topology(settings.buckets, settings.retry_delays)
            await bus.apply(table)
            await store.apply(table)
            yield store, bus
        finally:
            await store.close()
    finally:
        await bus.close()


async def _examine_canary(chart: Chart, store: DirectoryStore, bus: SqliteBus, settings: AcequiaSettings) -> None:
    """Write, see its event wait for its reader (who passes over it), read, remove."""
    key = f"{CANARY_PREFIX}{uuid4().hex}.parquet"
    queue = next(reader.queue for reader in READERS if reader.layer is Layer.RAW)
    mend = "see that the disk is sound and not full, and run the doctor again"
    with chart.examining(CANARY, mend):
        try:
            before = await bus.depth(queue)
            await store.put(Layer.RAW, key, b"canary", metadata={}, content_type="application/octet-stream")
            told = await bus.depth(queue) > before
            found = await store.read(Layer.RAW, key)
        finally:
            await store.remove(Layer.RAW, key)
        if found is None or found[0] != b"canary":
            chart.fail(CANARY, f"what was written to {settings.buckets.of(Layer.RAW)} does not read the same", mend)
        elif not told:
            chart.fail(CANARY, f"an object came to RAW and no event to {queue}", mend)
        else:
            chart.ok(CANARY, "an object was written, its event came to its reader's queue, it was read and removed")


async def _examine_postgres(chart: Chart, data: Path, *, fresh: bool) -> None:
    log = data / "pg.log"
    server = EmbeddedPostgres(data.resolve())
    with chart.examining(
        POSTGRES, f"see {log}; a folder that can not be mended: move it away, then `acequia audit rebuild`"
    ):
        try:
            settings = await asyncio.to_thread(server.start)
            look = await look_at_database(settings)
        except OSError as error:
            raise ConfigurationError(f"the embedded PostgreSQL can't be started: {error}") from error
        finally:
            await asyncio.to_thread(server.stop)
        state = "empty" if look.missing_migrations else "migrated"
        chart.ok(POSTGRES, f"PostgreSQL {look.version.split()[0]} starts and stops" + ("" if fresh else f", {state}"))
