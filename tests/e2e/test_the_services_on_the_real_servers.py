"""Six processes, three servers: what a user of the running system sees, and what survives what happens to it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from acequia.adapters.minio import MinioStore
from acequia.layers import Buckets, Layer
from acequia.ports import ObjectInfo
from harness.database import administer
from harness.fleet import SERVICES, Fleet, free_port

OUTAGE = float(os.environ.get("ACEQUIA_OUTAGE_SECONDS") or 0)
"""How much longer an outage lasts than it takes the services to tell of it; a person sets it to some minutes."""
LAYERS = (Layer.RAW, Layer.SILVER, Layer.MODELS, Layer.EVAL, Layer.QUARANTINE)


@pytest.fixture(scope="module")
def fleet(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All services, ready, with buckets, queues and a database of their own."""
    prefix, database = f"t{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    asyncio.run(_prepare(stack, database))
    env = {**stack.env, "ACEQUIA_BUCKET_PREFIX": prefix, "PG_DATABASE": database}
    fleet = Fleet(env, tmp_path_factory.mktemp("logs"))
    fleet.start(*SERVICES)
    yield fleet
    fleet.close()
    asyncio.run(_prepare(stack, None))


async def _prepare(stack: Any, database: str | None) -> None:
    """A database, and no queue that another test left."""
    import aio_pika

    from acequia.topology import topology

    connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
    async with connection, connection.channel() as channel:
        for delays in ((1, 2, 2), None):
            table = topology(Buckets(), delays) if delays else topology(Buckets())
            for queue in table.queues:
                for name in (queue.name, *queue.rungs):
                    await channel.queue_delete(name)
    if database:
        await administer(stack.postgres, f"CREATE DATABASE {database}")


def objects(fleet: Fleet, stack: Any, layer: Layer) -> list[ObjectInfo]:
    async def listed() -> list[ObjectInfo]:
        store = await MinioStore.open(stack.minio, Buckets(fleet.env["ACEQUIA_BUCKET_PREFIX"]))
        try:
            return [info async for info in store.list_objects(layer)]
        finally:
            await store.close()

    return asyncio.run(listed())


def drop(fleet: Fleet, stack: Any, key: str, data: bytes, **metadata: str) -> None:
    """A file dropped into the landing bucket by some S3 client."""

    async def put() -> None:
        store = await MinioStore.open(stack.minio, Buckets(fleet.env["ACEQUIA_BUCKET_PREFIX"]))
        try:
            await store.put(Layer.LANDING, key, data, metadata=metadata, content_type="text/plain")
        finally:
            await store.close()

    asyncio.run(put())


ONE_EACH = {"ingestor": 1, "transformer": 1, "trainer": 1, "lakehouse": 1, "evaluator": 1}


def outcomes(page: dict[str, Any]) -> Counter[str]:
    return Counter(stage for stage, events in page["stages"].items() for event in events if event["kind"] == "outcome")


def assert_rows_add_up(page: dict[str, Any]) -> None:
    assert page["rows_in"] == page["rows_silver"] + page["rows_duplicate"] + page["rows_quarantined"], page


ZEEK_HEAD = """#separator \\x09
#unset_field\t-
#path\tconn
#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state
"""


def zeek(rows: int, start: int = 1_700_000_000, bad: int = 0) -> bytes:
    lines = [
        f"{start + n}.5\tC{n}\t10.0.0.{n % 7}\t4{n % 10_000:04d}\t10.1.0.9\t443\ttcp\t1.5\t{n}\t{n * 3}\tSF"
        for n in range(rows)
    ]
    lines += ["not-a-time\tC\t10.0.0.1\t1\t10.1.0.9\t443\ttcp\t1.5\t1\t3\tSF"] * bad
    return (ZEEK_HEAD + "\n".join(lines) + "\n").encode()


def test_a_request_ends_in_an_evaluated_model(fleet: Fleet) -> None:
    answer = fleet.post(rows=500)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/ingestions/{answer.json()['run_id']}"
    right_away = httpx.get(fleet.url("ingestor") + answer.headers["location"])
    assert right_away.status_code == 200
    page = fleet.finished(answer.json()["run_id"])
    assert page["state"] == "done"
    assert page["rows_in"] == page["rows_raw"] == 500
    assert_rows_add_up(page)
    assert page["model"]
    assert set(page["artifacts"]) == {"raw", "silver", "lake", "models", "eval"}


def test_the_same_idempotency_key_is_one_run_and_another_body_is_refused(fleet: Fleet) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = fleet.post(rows=20, **key)
    again = fleet.post(rows=20, **key)
    assert again.json()["run_id"] == first.json()["run_id"]
    assert outcomes(fleet.finished(first.json()["run_id"]))["ingestor"] == 1
    other = fleet.post(rows=21, **key)
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]
    late = fleet.post(rows=20, **key)
    assert late.json()["run_id"] == first.json()["run_id"]
    assert outcomes(fleet.finished(first.json()["run_id"]))["ingestor"] == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"dataset": "nope", "source": {"kind": "synthetic", "rows": 1}}, "network_events"),
        ({"dataset": "network_events", "source": {"kind": "synthetic", "rows": 10**9}}, "50000000"),
        ({"dataset": "network_events", "source": {"kind": "synthetic", "rows": 1, "colour": "red"}}, "colour"),
        ({"dataset": "network_events", "source": {"kind": "carrier pigeon"}}, "synthetic"),
    ],
)
def test_a_wrong_request_is_told_what_is_allowed(fleet: Fleet, body: dict[str, Any], says: str) -> None:
    answer = httpx.post(fleet.url("ingestor") + "/ingestions", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.text


def test_a_body_over_the_limit_is_refused(fleet: Fleet) -> None:
    answer = httpx.post(fleet.url("ingestor") + "/ingestions", content=b" " * 100_000)
    assert answer.status_code == 413
    assert answer.json()["allowed"] == 65_536


def test_an_unknown_run_is_not_found(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.url('ingestor')}/ingestions/{uuid4()}").status_code == 404


def test_the_command_line_needs_the_ingestors_address_alone(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "conn.log"
    file.write_bytes(zeek(90, start=1_650_000_000))

    def acequia(*words: str) -> dict[str, Any]:
        command = [str(Path(sys.executable).parent / "acequia"), *words, "--url", fleet.url("ingestor"), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    summary = acequia("ingest", "file", str(file))
    assert summary["rows_in"] == 90
    assert any(run["run_id"] == summary["run_id"] for run in acequia("runs")["runs"])
    assert any(node["uri"] in summary["artifacts"]["raw"] for node in acequia("trace", summary["model"])["nodes"])


def test_the_ingestors_address_is_enough_to_prove_that_nothing_is_lost(fleet: Fleet, tmp_path: Path) -> None:
    def ask(*command: str) -> tuple[int, dict[str, Any]]:
        arguments = [sys.executable, "-m", "acequia_cli.main", *command, "--url", fleet.url("ingestor"), "--json"]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
        return done.returncode, json.loads(done.stdout)

    fleet.finished(fleet.post(rows=100, seed=5).json()["run_id"])
    fleet.wait(lambda: ask("verify", "--settled", "--grace", "0")[0] == 0, "it does not settle")

    code, proof = ask("verify", "--settled", "--grace", "0")
    assert code == 0 and {row["layer"] for row in proof["sums"]} >= {"raw", "silver", "models"}
    assert proof["audit"]["ok"] and set(proof["queues"].values()) == {0}
    code, chain = ask("audit", "verify")
    assert code == 0 and chain["ok"] and chain["records"] > 0
    assert ask("sweep", "--grace", "0", "--dry-run")[1]["orphans"] == []
    assert ask("dlq", "list") == (0, {"dead_letters": [], "more": False})
    code, replayed = ask("replay", "--layer", "raw", "--dataset", "network_events", "--since", "1h", "--dry-run")
    assert code == 0 and replayed["matched"] == len(replayed["objects"]) > 0

    assert fleet.stop("reconciler") == 0
    code, away = ask("verify")
    fleet.start("reconciler")
    assert code == 1 and "the reconciler does not answer" in away["error"]


def test_a_file_by_put_with_bad_rows_adds_up(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "conn.log"
    file.write_bytes(zeek(200, bad=3))
    page = fleet.finished(fleet.put(file, dataset="network_events").json()["run_id"])
    assert (page["rows_in"], page["rows_quarantined"]) == (203, 3)
    assert_rows_add_up(page)


def test_the_same_content_under_another_name_makes_nothing_new(fleet: Fleet, stack: Any, tmp_path: Path) -> None:
    file = tmp_path / "conn.log"
    file.write_bytes(zeek(50, start=1_600_000_000))
    first = fleet.finished(fleet.put(file).json()["run_id"])
    before = {layer: len(objects(fleet, stack, layer)) for layer in LAYERS}
    second = fleet.finished(fleet.put(file, name="copy.log").json()["run_id"])
    assert second["state"] == "same_content"
    assert second["same_as"] == first["run_id"]
    assert second["rows_silver"] == first["rows_silver"]
    assert {layer: len(objects(fleet, stack, layer)) for layer in LAYERS} == before


def test_a_file_dropped_by_any_client_is_ingested_by_its_folder(fleet: Fleet, stack: Any) -> None:
    data = zeek(77, start=1_500_000_000)
    drop(fleet, stack, "network_events/from an old script/ñandú+1.txt", data)
    assert _run_with(fleet, rows_in=77)["state"] == "done"


def test_a_file_that_nobody_can_read_lies_in_quarantine_with_its_reason(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpg"
    file.write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(5000))
    page = fleet.finished(fleet.put(file).json()["run_id"])
    assert page["state"] == "rejected"
    assert page["error"]["rule"] == "unknown_dataset"
    assert any("quarantine" in uri for uris in page["artifacts"].values() for uri in uris)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_killed_in_the_middle_of_a_run_finishes_it_when_started_again(
    fleet: Fleet, stack: Any, name: str
) -> None:
    run_id = fleet.post(rows=3000, seed=SERVICES.index(name)).json()["run_id"]
    fleet.kill(name)
    fleet.start(name)
    page = fleet.finished(run_id)
    assert outcomes(page) == ONE_EACH
    assert_rows_add_up(page)
    stem = page["artifacts"]["raw"][0].rpartition("/")[2].removesuffix(".parquet")
    for layer in (Layer.RAW, Layer.SILVER):
        assert len([o for o in objects(fleet, stack, layer) if stem in o.key]) == 1


def test_what_came_while_services_were_down_is_done_when_they_come_in_any_order(fleet: Fleet, tmp_path: Path) -> None:
    for name in ("transformer", "trainer", "lakehouse", "evaluator"):
        assert fleet.stop(name) == 0
    run_id = fleet.post(rows=40, seed=99).json()["run_id"]
    fleet.wait(lambda: fleet.page(run_id).get("rows_raw") == 40, "the ingestor needs nobody")
    fleet.start("evaluator", "trainer", "lakehouse", "transformer")
    assert outcomes(fleet.finished(run_id)) == ONE_EACH


def test_an_object_whose_event_was_lost_is_brought_through(fleet: Fleet, stack: Any) -> None:
    stack.stop_one("rabbitmq")
    try:
        drop(fleet, stack, "network_events/while the broker was away.log", zeek(88, start=1_400_000_000))
        answer = fleet.post(rows=5)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
    finally:
        stack.start_one("rabbitmq")
    assert _run_with(fleet, rows_in=88)["state"] == "done"
    for name in SERVICES:
        fleet.wait_ready(name)


@pytest.mark.parametrize(
    ("server", "concerned"),
    [
        ("rabbitmq", dict.fromkeys(SERVICES, "bus")),
        ("minio", dict.fromkeys(SERVICES, "store")),
        ("postgresql", {"auditor": "auditor", "lakehouse": "lakehouse"}),  # the catalog lies there too
    ],
    ids=["rabbitmq", "minio", "postgresql"],
)
def test_an_outage_is_told_by_ready_alone_and_heals_without_a_restart_of_ours(
    fleet: Fleet, stack: Any, server: str, concerned: dict[str, str]
) -> None:
    """`concerned`: which part each service's `/ready` complains of."""
    processes = dict(fleet.processes)
    begun = fleet.post(rows=40, seed=4710).json()["run_id"]
    stack.stop_one(server, kill=True)
    try:
        for name, told in concerned.items():
            fleet.wait(
                lambda name=name, told=told: fleet.parts(name).get(told, "ok") != "ok",
                f"{name} does not tell of {server}",
            )
        for name in SERVICES:
            assert httpx.get(f"{fleet.url(name)}/health", timeout=10).status_code == 200
            assert fleet.is_ready(name) == (name not in concerned)
        time.sleep(OUTAGE)
    finally:
        stack.start_one(server)
    for name in SERVICES:
        fleet.wait_ready(name)
    assert fleet.finished(begun)["state"] == "done"
    assert fleet.finished(fleet.post(rows=40, seed=4711).json()["run_id"])["state"] == "done"
    assert fleet.processes == processes
    assert all(process.poll() is None for process in processes.values())


def test_without_postgresql_ingesting_goes_on_and_the_record_is_complete_afterwards(fleet: Fleet, stack: Any) -> None:
    stack.stop_one("postgresql")
    try:
        answer = fleet.post(rows=30, seed=123)
        assert answer.status_code == 202
        fleet.wait(lambda: fleet_evaluated(fleet, stack, answer.json()["run_id"]), "the chain needs no database")
        asked = httpx.get(f"{fleet.url('ingestor')}/ingestions/{answer.json()['run_id']}", timeout=30)
        assert asked.status_code == 503
    finally:
        stack.start_one("postgresql")
    page = fleet.finished(answer.json()["run_id"])
    assert outcomes(page) == ONE_EACH


def fleet_evaluated(fleet: Fleet, stack: Any, run_id: str) -> bool:
    """Whether the raw object of the run has an evaluation behind it: one evaluation more than before is enough."""
    known = fleet.__dict__.setdefault("evaluated", {})
    if run_id not in known:
        known[run_id] = len(objects(fleet, stack, Layer.EVAL))
    raw = [o for o in objects(fleet, stack, Layer.SILVER) if run_id.replace("-", "")[:16] in o.key]
    return bool(raw) and len(objects(fleet, stack, Layer.EVAL)) > known[run_id] - 1


def test_an_empty_database_is_filled_again_from_the_store(fleet: Fleet, stack: Any) -> None:
    run_id = fleet.post(rows=60, seed=5).json()["run_id"]
    before = fleet.finished(run_id)

    async def empty() -> None:
        there = stack.postgres
        connection = await asyncpg.connect(
            host=there.host,
            port=there.port,
            user=there.user,
            password=there.password.get_secret_value(),
            database=fleet.env["PG_DATABASE"],
        )
        await connection.execute("DROP SCHEMA acequia CASCADE")
        await connection.close()

    assert fleet.stop("auditor") == 0
    asyncio.run(empty())
    fleet.start("auditor")
    answer = httpx.post(f"{fleet.url('auditor')}/audit/rebuild", timeout=120)
    assert answer.status_code == 200, answer.text
    after = fleet.finished(run_id)
    for name in ("state", "rows_in", "rows_silver", "rows_quarantined", "model", "metrics", "artifacts"):
        assert after[name] == before[name], name


def test_the_predecessors_query_still_works(fleet: Fleet, stack: Any) -> None:
    async def ask() -> list[Any]:
        there = stack.postgres
        connection = await asyncpg.connect(
            host=there.host,
            port=there.port,
            user=there.user,
            password=there.password.get_secret_value(),
            database=fleet.env["PG_DATABASE"],
        )
        try:
            return list(await connection.fetch("SELECT * FROM ingestion_events ORDER BY id DESC LIMIT 10;"))
        finally:
            await connection.close()

    fleet.finished(fleet.post(rows=7).json()["run_id"])
    newest = asyncio.run(ask())[0]
    assert list(newest.keys()) == [
        "id",
        "timestamp_ingesta",
        "nombre_archivo",
        "ruta_minio",
        "num_registros",
        "estado",
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_setting_ends_a_service_with_one_line_that_names_it(fleet: Fleet, name: str) -> None:
    missing = "PG_PASSWORD" if name == "auditor" else "RABBITMQ_URL"
    env = {k: v for k, v in fleet.env.items() if k != missing}
    ended = subprocess.run(
        [sys.executable, "-m", f"acequia_{name}"], check=False, env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert missing in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_the_consoles_port_is_named_as_what_it_is(fleet: Fleet, stack: Any) -> None:
    if "MINIO_CONSOLE" not in stack.env:
        pytest.skip("the stack does not say where MinIO's console is")
    env = {**fleet.env, "MINIO_ENDPOINT": stack.env["MINIO_CONSOLE"], "ACEQUIA_HTTP_PORT": str(free_port())}
    ended = subprocess.run(
        [sys.executable, "-m", "acequia_transformer"], check=False, env=env, capture_output=True, text=True, timeout=90
    )
    assert ended.returncode == 2
    assert "console" in ended.stderr


REAL = {
    "zeek-iot23/CTU-Malware-Capture-34-1-labeled.csv": 23_145,
    "zeek-strato/011-conn.log.labeled": 9_048,
    "zeek-samples/conn.tsv.log": 360,
    "zeek-samples/conn.json.log": 50,
}


def test_real_logs_go_through_with_every_row_accounted_for(fleet: Fleet, real_data: Path) -> None:
    files = {real_data / name: rows for name, rows in REAL.items()}
    hours = sorted((real_data / "zeek-rita").glob("*.gz"))
    assert len(hours) == 24
    runs = {file: fleet.put(file).json()["run_id"] for file in [*files, *hours]}
    pages = {file: fleet.finished(run_id, 180) for file, run_id in runs.items()}
    for file, page in pages.items():
        assert page["state"] == "done", (file, page["error"])
        assert_rows_add_up(page)
        assert page["rows_quarantined"] <= 0.01 * page["rows_in"], file
    for file, rows in files.items():
        assert abs(pages[file]["rows_in"] - rows) <= 1, (file, pages[file]["rows_in"])
    assert sum(pages[hour]["rows_in"] for hour in hours) == 35_478


def test_a_stop_in_the_middle_of_work_exits_with_0_and_loses_nothing(fleet: Fleet) -> None:
    runs = [fleet.post(rows=2000, seed=n).json()["run_id"] for n in range(5)]
    for name in ("transformer", "trainer", "lakehouse", "evaluator", "ingestor", "auditor", "reconciler"):
        assert fleet.stop(name) == 0, fleet.log(name)
    fleet.start(*SERVICES)
    for run_id in runs:
        page = fleet.finished(run_id)
        assert page["state"] == "done"
        assert_rows_add_up(page)


def test_a_stop_in_the_middle_of_a_long_training_does_not_wait_for_its_end(fleet: Fleet) -> None:
    """It is handed back at once, and the next process does it."""
    assert fleet.stop("trainer") == 0
    fleet.start("trainer", ACEQUIA_TRAINER_N_ESTIMATORS="10000", ACEQUIA_STOP_GRACE="1")
    plans = fleet.said("trainer", "start 1")
    run_id = fleet.post(rows=5000, seed=77).json()["run_id"]
    fleet.wait(lambda: fleet.said("trainer", "start 1") > plans, "no training starts")
    assert fleet.stop("trainer") == 0
    assert not fleet.page(run_id)["finished"]
    fleet.start("trainer")
    assert fleet.finished(run_id)["state"] == "done"


def _run_with(fleet: Fleet, rows_in: int) -> dict[str, Any]:
    """The finished page of the run that had this many rows."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        answer = httpx.get(f"{fleet.url('auditor')}/runs", params={"limit": 200}, timeout=30)
        found[:] = [run for run in answer.json().get("runs", []) if run.get("rows_in") == rows_in]
        return bool(found)

    fleet.wait(there, f"no run with {rows_in} rows")
    return fleet.finished(found[0]["run_id"])
