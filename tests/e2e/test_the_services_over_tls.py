"""All services on a MinIO, a RabbitMQ and a PostgreSQL that speak TLS only, by a CA that no machine knows."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import asyncpg
import pytest
from pydantic import SecretStr

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia.settings import MinioSettings, PostgresSettings, RabbitSettings
from acequia_auditor.connect import secured
from acequia_auditor.database import Database
from acequia_lakehouse.catalog import Place, open_catalog
from acequia_lakehouse.prepare import prepare_database
from acequia_lakehouse.settings import LakehouseSettings
from acequia_lakehouse.tables import Tables
from harness.fleet import SERVICES, Fleet

NATIVE = Path(__file__).resolve().parents[2] / "deploy" / "native"
CHAIN = [name for name in SERVICES if name != "reconciler"]
"""Without it nothing but MinIO's own messages, over TLS, brings an object on."""


@pytest.fixture(scope="module")
def secure(stack: Any) -> Iterator[Any]:
    """Servers beside those of the other tests."""
    if stack.folder is None:
        pytest.skip("servers of another kind are started only beside the native ones")
    sys.path.append(str(NATIVE))
    import servers
    import stack as native

    made = native.bring_up(None, owner=servers.Process.of(os.getpid()), tls=True)
    yield made
    native._remove(made)


@pytest.fixture(scope="module")
def env(secure: Any) -> dict[str, str]:
    return dict(secure.environment())


@pytest.fixture(scope="module")
def other_ca(secure: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CA that has signed nothing of what the servers show."""
    import servers

    folder: Path = tmp_path_factory.mktemp("other")
    servers.make_certificates(folder)
    return str(folder / "ca.crt")


@pytest.fixture(scope="module")
def fleet(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(env, tmp_path_factory.mktemp("logs"))
    fleet.start(*CHAIN)
    yield fleet
    fleet.close()


@pytest.fixture
def acequia(env: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MINIO_", "RABBITMQ_", "PG", "ACEQUIA_"))}
        command = [sys.executable, "-m", "acequia_cli.main", *words]
        return subprocess.run(
            command, check=False, cwd=tmp_path, env={**kept, **env, **changed}, capture_output=True, text=True
        )

    return run


def minio(env: dict[str, str], ca_file: str) -> MinioSettings:
    secret = SecretStr(env["MINIO_SECRET_KEY"])
    endpoint, key = env["MINIO_ENDPOINT"], env["MINIO_ACCESS_KEY"]
    return MinioSettings(endpoint=endpoint, access_key=key, secret_key=secret, secure=True, ca_file=ca_file)


def postgres(env: dict[str, str], **more: Any) -> PostgresSettings:
    """As the schema's owner."""
    port, password = int(env["PG_PORT"]), SecretStr(env["PG_PASSWORD"])
    return PostgresSettings(host=env["PG_HOST"], port=port, user="acequia", password=password, **more)


async def test_a_chain_runs_and_its_table_is_read_over_tls_alone(
    fleet: Fleet, env: dict[str, str], acequia: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run_id = fleet.post(rows=40, rate=0.1).json()["run_id"]
    page = fleet.finished(run_id)
    assert page["rows_in"] == page["rows_silver"] == 40, page
    for layer in ("bronze", "silver"):
        asked = acequia("query", f"SELECT count(*) AS rows FROM {layer}.network_events", "--format", "json")
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout) == [{"rows": 40}]
    owner = postgres(env, sslmode="verify-full", ca_file=env["PG_CA_FILE"])
    connection = await asyncpg.connect(
        host=owner.host,
        port=owner.port,
        user=owner.user,
        password=owner.password.get_secret_value(),
        database="acequia",
        ssl=secured(owner.sslmode, owner.ca_file),
    )
    try:
        rows = await connection.fetch(
            "SELECT a.usename, bool_and(s.ssl) AS secure FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
            "WHERE a.client_addr IS NOT NULL GROUP BY 1"
        )
    finally:
        await connection.close()
    assert {row["usename"]: row["secure"] for row in rows} == {"acequia": True, "acequia_auditor": True}


def test_the_catalogs_database_is_made_over_tls(env: dict[str, str]) -> None:
    tls = f"sslmode=verify-full&sslrootcert={env['PG_CA_FILE']}"
    where = f"{env['PG_HOST']}:{env['PG_PORT']}"
    role = f"postgresql+psycopg://lake:its-own@{where}/lake?{tls}"
    done = prepare_database(role, f"postgresql://acequia:{env['PG_PASSWORD']}@{where}/acequia?{tls}")
    assert done == "lake may read and write the catalog's tables in lake"
    catalog = open_catalog(
        LakehouseSettings(catalog_uri=SecretStr(role)),
        Place.on_server(minio(env, env["MINIO_CA_FILE"]), Buckets(env.get("ACEQUIA_BUCKET_PREFIX", "cybersec-ml"))),
    )
    with closing(catalog):
        assert catalog.list_namespaces() == []


def test_the_doctor_finds_nothing_wrong_with_tls(acequia: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    found = {f["check"]: f["state"] for f in json.loads(acequia("doctor", "--json").stdout)["checks"]}
    names = ("store address", "store login", "broker address", "broker login", "database")
    assert [found[name] for name in names] == ["ok"] * len(names)


def test_the_doctor_names_the_setting_where_the_ca_is_another(
    acequia: Callable[..., subprocess.CompletedProcess[str]], other_ca: str
) -> None:
    changed = dict.fromkeys(("MINIO_CA_FILE", "RABBITMQ_CA_FILE", "PG_CA_FILE"), other_ca)
    found = {f["check"]: f for f in json.loads(acequia("doctor", "--json", **changed).stdout)["checks"]}
    for name, setting in (("store address", "MINIO"), ("broker address", "RABBITMQ"), ("database", "PG")):
        assert found[name]["state"] == "fail", found[name]
        assert f"{setting}_CA_FILE" in found[name]["mend"], found[name]


async def test_a_server_that_an_unknown_ca_vouches_for_is_not_talked_to(env: dict[str, str], other_ca: str) -> None:
    refused = r"certificate verify failed|unable to get local issuer"
    for ca_file in (other_ca, ""):
        async with await MinioStore.open(minio(env, ca_file), Buckets()) as store:
            with pytest.raises(ConfigurationError, match=refused):
                await store.check()
        bus = RabbitBus(RabbitSettings(url=SecretStr(env["RABBITMQ_URL"]), ca_file=ca_file))
        with pytest.raises(TransientFailure, match=rf"({refused}).*; RABBITMQ_CA_FILE names"):
            await bus.check()
        await bus.close()
        database = Database(postgres(env, sslmode="verify-full", ca_file=ca_file))
        with pytest.raises(TransientFailure, match=rf"({refused}).*; PG_CA_FILE names"):
            await database.open()
        await database.close()
        tables = Tables(LakehouseSettings(catalog="rest"), Place.on_server(minio(env, ca_file), Buckets()))
        with pytest.raises(TransientFailure, match=r"certificate|peer"):
            tables.silver.schema("s3://cybersec-ml-silver/nothing.parquet")
    uri = env["ACEQUIA_LAKEHOUSE_CATALOG_URI"].replace(env["PG_CA_FILE"], other_ca)
    tables = Tables(LakehouseSettings(catalog_uri=SecretStr(uri)), Place.on_server(minio(env, other_ca), Buckets()))
    with closing(tables), pytest.raises(TransientFailure, match=refused):
        tables.check()


def test_who_asks_without_tls_gets_no_answer(env: dict[str, str]) -> None:
    """So what the other tests reached, they reached by TLS."""
    with pytest.raises(HTTPError, match="400"):
        urlopen(f"http://{env['MINIO_ENDPOINT']}/", timeout=10)
    broker = urlsplit(env["RABBITMQ_URL"])
    with socket.create_connection((broker.hostname or "", broker.port or 0), timeout=10) as connection:
        connection.sendall(b"AMQP\x00\x00\x09\x01")
        assert not connection.recv(8).startswith(b"\x01\x00\x00")
