"""The doctor on real servers that were set up wrongly, one thing at a time: what it says, and how to mend it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
from miniopy_async.api import Minio
from miniopy_async.notificationconfig import NotificationConfig
from yarl import URL

from acequia.adapters.minio import MinioStore
from acequia.adapters.rabbit import RabbitBus
from acequia.layers import CANARY_PREFIX, Buckets, Layer
from acequia.ports import HandBack, Message
from acequia.topology import MOST_MESSAGES, READERS, Topology, topology
from acequia_auditor.migrate import bring_up_to_date
from acequia_auditor.settings import MigrationSettings
from acequia_cli.commands import Output
from acequia_cli.doctor.command import Doctor

pytestmark = pytest.mark.stack

Examine = Callable[..., Awaitable["Report"]]
STAGE_QUEUES = (*(reader.queue for reader in READERS), "acequia.audit")


class Report:
    def __init__(self, document: dict[str, Any], code: int) -> None:
        self.code = code
        self.checks = {finding["check"]: finding for finding in document["checks"]}

    def failed(self) -> list[str]:
        return [name for name, finding in self.checks.items() if finding["state"] == "fail"]

    def states(self, *names: str) -> list[str]:
        return [self.checks[name]["state"] for name in names]

    def complains(self, check: str, said: str, mend: str, state: str = "fail") -> None:
        """`check` has `state`, with `said` in what it says and `mend` in its mend line."""
        finding = self.checks[check]
        assert finding["state"] == state, finding
        assert said in finding["said"]
        assert mend in finding["mend"]


@dataclass
class Installation:
    """The topology on the real servers, with buckets and a database of the test's own."""

    table: Topology
    bus: RabbitBus
    store: MinioStore
    client: Minio
    channel: aio_pika.abc.AbstractChannel
    consumers: AsyncExitStack
    examine: Examine

    def bucket(self, layer: Layer) -> str:
        return self.table.buckets.of(layer)

    async def consume(self, *without: str) -> None:
        """Somebody consumes each stage's queue, but for `without`."""

        async def hand_back(_: object) -> HandBack:
            return HandBack()

        for queue in STAGE_QUEUES:
            if queue not in without:
                subscription = await self.bus.consume(queue, hand_back, concurrency=1)
                self.consumers.push_async_callback(subscription.close, grace=0)


@pytest.fixture
def examine(stack, fresh_prefix, fresh_database, monkeypatch, capsys) -> Examine:
    """The doctor's report on the real servers, with some settings changed."""
    mine = {
        "PG_DATABASE": fresh_database.database,
        "PG_USER": fresh_database.user,
        "PG_PASSWORD": fresh_database.password.get_secret_value(),
        "ACEQUIA_BUCKET_PREFIX": fresh_prefix,
    }
    for name, value in {**stack.env, **mine}.items():
        monkeypatch.setenv(name, value)

    async def examine(**settings: str) -> Report:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = await Doctor(Path("nowhere"), patience=3, pause=0.2).run(Output.open(as_json=True))
        return Report(json.loads(capsys.readouterr().out), code)

    return examine


@pytest.fixture
async def installation(stack, examine, clean_queues, fresh_prefix) -> AsyncIterator[Installation]:
    table = topology(Buckets(fresh_prefix))
    async with AsyncExitStack() as opened:
        bus = await opened.enter_async_context(await RabbitBus.connect(stack.rabbit))
        store = await opened.enter_async_context(await MinioStore.open(stack.minio, table.buckets))
        await bus.apply(table)
        await store.apply(table)
        secret = stack.minio.secret_key.get_secret_value()
        client = Minio(stack.minio.endpoint, stack.minio.access_key, secret, secure=False, region=stack.minio.region)
        opened.push_async_callback(client.close_session)
        connection = await opened.enter_async_context(await aio_pika.connect(stack.rabbit.url.get_secret_value()))
        consumers = await opened.enter_async_context(AsyncExitStack())
        yield Installation(table, bus, store, client, await connection.channel(), consumers, examine)


async def test_nothing_fails_where_all_is_as_it_should_be_and_nothing_of_the_doctors_stays(
    installation, fresh_database
):
    await bring_up_to_date(fresh_database, MigrationSettings(user=""))
    await installation.consume()
    report = await installation.examine()
    assert report.failed() == []
    assert report.code == 0
    assert report.states("events of landing", "events of raw", "events of silver", "events of models") == ["ok"] * 4
    for layer in Layer:
        assert [info.key async for info in installation.store.list_objects(layer, CANARY_PREFIX)] == []
    names = [bucket.name for bucket in await installation.client.list_buckets()]
    assert [name for name in names if name.startswith(f"{installation.table.buckets.prefix}-doctor")] == []


# the store


async def test_another_port_than_the_stores(examine):
    report = await examine(MINIO_ENDPOINT="127.0.0.1:1")
    report.complains("store address", "nothing listens at MINIO_ENDPOINT=127.0.0.1:1", "set MINIO_ENDPOINT")
    assert report.states("store login", "buckets", "notifications", "events") == ["skipped"] * 4
    assert report.code == 1


async def test_the_port_of_the_console(examine, stack):
    report = await examine(MINIO_ENDPOINT=stack.env["MINIO_CONSOLE"])
    report.complains("store address", "is the port of MinIO's console", "the S3 API: 9000")


async def test_tls_where_the_store_speaks_none(examine):
    report = await examine(MINIO_SECURE="true")
    report.complains("store address", "does not speak TLS", "set MINIO_SECURE=false")


async def test_the_brokers_port_for_the_store(examine, stack):
    broker = URL(stack.rabbit.url.get_secret_value())
    report = await examine(MINIO_ENDPOINT=f"127.0.0.1:{broker.port}")
    report.complains("store address", "does not answer as an S3 API does", "port 9000 by default")


async def test_a_wrong_password_for_the_store(examine):
    report = await examine(MINIO_SECRET_KEY="not-the-password")
    report.complains("store login", "MINIO_SECRET_KEY is not its password", "set MINIO_SECRET_KEY to the password")
    assert report.states("store address", "buckets") == ["ok", "skipped"]


async def test_a_user_that_the_store_does_not_know(examine):
    report = await examine(MINIO_ACCESS_KEY="nobody")
    report.complains("store login", "knows no user 'nobody'", "set MINIO_ACCESS_KEY to a user of that server")


async def test_a_bucket_that_was_removed(installation):
    await installation.client.remove_bucket(installation.bucket(Layer.SILVER))
    report = await installation.examine()
    report.complains("buckets", f"missing: {installation.bucket(Layer.SILVER)}", "start a service")
    assert report.states("events of landing", "events of raw", "events of models") == ["ok"] * 3
    assert "events of silver" not in report.checks


async def test_a_prefix_under_which_there_is_nothing(examine):
    report = await examine(ACEQUIA_BUCKET_PREFIX="another-prefix")
    report.complains("buckets", "no bucket another-prefix-... is there", "set ACEQUIA_BUCKET_PREFIX")


async def test_a_notification_that_was_removed(installation):
    bucket = installation.bucket(Layer.RAW)
    await installation.client.set_bucket_notification(bucket, NotificationConfig())
    report = await installation.examine()
    report.complains("notifications", f"{bucket} tells nobody of new objects", "start a service")
    there = await installation.client.get_bucket_notification(bucket)
    assert not there.queue_config_list, "the doctor looks, it does not mend"


async def test_a_target_that_the_server_does_not_have(installation):
    report = await installation.examine(MINIO_ARN="arn:minio:sqs:{region}:{target}ELSEWHERE:amqp")
    report.complains(
        "notification targets",
        "does not know arn:minio:sqs::LANDINGELSEWHERE:amqp",
        "MINIO_NOTIFY_AMQP_ENABLE_<ID>=on (exactly `on`)",
    )
    report.complains("notifications", "has another target", "start a service")


# the broker


async def test_another_port_than_the_brokers(examine):
    report = await examine(RABBITMQ_URL="amqp://acequia:x@127.0.0.1:1/")
    report.complains("broker address", "nothing listens at 127.0.0.1:1 of RABBITMQ_URL", "set RABBITMQ_URL")
    assert report.states("broker login", "queues", "consumers", "events") == ["skipped"] * 4


async def test_a_port_that_speaks_http_for_the_broker(examine, stack):
    report = await examine(RABBITMQ_URL=f"amqp://acequia:x@{stack.minio.endpoint}/")
    report.complains("broker address", "speaks HTTP", "5672 by default")


async def test_a_wrong_password_for_the_broker(examine, stack):
    wrong = URL(stack.rabbit.url.get_secret_value()).with_password("not-the-password")
    report = await examine(RABBITMQ_URL=str(wrong))
    report.complains("broker login", "the user or the password of RABBITMQ_URL is wrong", "rabbitmqctl change_password")
    assert "not-the-password" not in json.dumps(report.checks)


async def test_a_virtual_host_that_is_not_there(examine, stack):
    wrong = URL(stack.rabbit.url.get_secret_value()).with_path("/elsewhere")
    report = await examine(RABBITMQ_URL=str(wrong))
    report.complains("broker login", "does not open the virtual host 'elsewhere'", "rabbitmqctl add_vhost elsewhere")


@pytest.mark.parametrize(
    ("type_", "durable", "told"), [("direct", True, "current is 'direct'"), ("topic", False, "current is 'false'")]
)
async def test_an_exchange_that_someone_declared_in_another_way(installation, type_, durable, told):
    channel = installation.channel
    await channel.exchange_delete("acequia.commands")
    try:
        await channel.declare_exchange("acequia.commands", type_, durable=durable)
        report = await installation.examine()
        report.complains("exchanges", "acequia.commands is not a durable topic exchange", "_DURABLE_<ID>=on")
        assert told in report.checks["exchanges"]["said"]
    finally:
        await channel.exchange_delete("acequia.commands")


async def test_an_exchange_that_is_missing_is_not_made(installation):
    await installation.channel.exchange_delete("acequia.commands")
    report = await installation.examine()
    report.complains("exchanges", "missing: acequia.commands", "start a service")
    again = await installation.examine()
    assert again.states("exchanges") == ["fail"]


async def test_a_queue_that_is_missing_is_not_made(installation):
    await installation.channel.queue_delete("acequia.evaluator")
    report = await installation.examine()
    report.complains("queues", "missing: acequia.evaluator", "start a service")
    report.complains("bindings", "no queue is bound to acequia.objects for object.models", "start a service")
    again = await installation.examine()
    assert again.states("queues") == ["fail"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"x-queue-type": "quorum", "x-delivery-limit": 20}, "has no dead-letter exchange"),
        ({}, "has no dead-letter exchange"),
        (
            {
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "acequia.evaluator.dead",
                "x-overflow": "reject-publish",
                "x-max-length": MOST_MESSAGES,
            },
            "is not a quorum queue",
        ),
        (
            {
                "x-queue-type": "quorum",
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": "acequia.evaluator.dead",
                "x-overflow": "reject-publish",
                "x-delivery-limit": 20,
                "x-max-length": MOST_MESSAGES,
            },
            "may lose its dead letters",
        ),
    ],
)
async def test_a_queue_that_someone_declared_in_another_way(installation, arguments, told):
    channel = installation.channel
    await channel.queue_delete("acequia.evaluator")
    queue = await channel.declare_queue("acequia.evaluator", durable=True, arguments=arguments)
    await queue.bind("acequia.objects", "object.models")
    report = await installation.examine()
    report.complains("queues", f"acequia.evaluator {told}", "`rabbitmqctl delete_queue acequia.evaluator`")


async def test_a_binding_that_was_lost(installation):
    queue = await installation.channel.get_queue("acequia.transformer")
    await queue.unbind("acequia.objects", "object.raw")
    report = await installation.examine()
    report.complains("bindings", "no queue is bound to acequia.objects for object.raw", "start a service")


async def test_a_stage_that_nobody_works_for(installation):
    await installation.consume("acequia.transformer")
    report = await installation.examine()
    report.complains("consumers", "nobody consumes the queue of: transformer", "`docker compose up -d transformer`")


async def test_a_trainer_at_a_training_is_no_missing_consumer(installation):
    await installation.consume("acequia.trainer")
    await installation.store.put(
        Layer.LEDGER,
        "plans/trainer/network_events/000001.start-1.json",
        b"{}",
        metadata={},
        content_type="application/json",
    )
    report = await installation.examine()
    assert report.states("consumers") == ["ok"]
    assert "the trainer is at a plan" in report.checks["consumers"]["said"]


async def test_dead_letters_that_nobody_takes(installation):
    await installation.bus.publish("", "acequia.transformer.dead", Message(b"{}"))
    report = await installation.examine()
    report.complains("dead letters", "1 in acequia.transformer.dead", "start the auditor")


async def test_a_queue_that_gets_long(installation, monkeypatch):
    monkeypatch.setattr("acequia_cli.doctor.broker.LONG", 2)
    for _ in range(3):
        await installation.bus.publish("", "acequia.trainer", Message(b"{}"))
    report = await installation.examine()
    report.complains("queue lengths", "messages wait in acequia.trainer", "start replicas", state="warn")


# the database


async def test_another_port_than_the_databases(examine):
    report = await examine(PG_PORT="1")
    report.complains("database", "nothing listens at PG_HOST:PG_PORT=", "set PG_HOST and PG_PORT")
    assert report.states("database encoding", "database schema") == ["skipped"] * 2


async def test_a_wrong_password_for_the_database(examine):
    report = await examine(PG_PASSWORD="not-the-password")
    report.complains("database", "PG_PASSWORD is not its password", "set PG_USER and PG_PASSWORD")


async def test_a_database_that_is_not_there(examine):
    report = await examine(PG_DATABASE="nowhere")
    report.complains("database", "has no database 'nowhere'", "CREATE DATABASE nowhere")


async def test_a_database_that_was_not_migrated_is_not_migrated_by_the_doctor(examine, fresh_database):
    report = await examine()
    report.complains("database schema", "lacks 0001_audit.sql", "start the auditor")
    connection = await connect(fresh_database)
    try:
        assert await connection.fetchval("SELECT to_regnamespace('acequia')") is None
    finally:
        await connection.close()


async def test_a_database_of_another_encoding(examine, fresh_database):
    name = f"{fresh_database.database}_ascii"
    connection = await connect(fresh_database)
    try:
        await connection.execute(
            f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        )
        report = await examine(PG_DATABASE=name)
        report.complains("database encoding", "is encoded in SQL_ASCII", "ENCODING 'UTF8'")
    finally:
        await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await connection.close()


async def test_a_role_that_may_change_what_was_recorded(examine, fresh_database):
    await bring_up_to_date(fresh_database, MigrationSettings(user=""))
    report = await examine()
    report.complains("database role", "may change and remove what was recorded", "PG_MIGRATION_USER", state="warn")


async def test_a_role_that_may_only_add(examine, fresh_database):
    role = f"r{fresh_database.database}"
    owner = MigrationSettings(user=fresh_database.user, password=fresh_database.password)
    limited = fresh_database.model_copy(update={"user": role})
    await bring_up_to_date(limited, owner)
    try:
        report = await examine(PG_USER=role)
        assert report.states("database schema", "database role") == ["ok", "ok"]
    finally:
        connection = await connect(fresh_database)
        await connection.execute(f"DROP OWNED BY {role}")
        await connection.execute(f"DROP ROLE {role}")
        await connection.close()


async def connect(database) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(
        host=database.host,
        port=database.port,
        user=database.user,
        password=database.password.get_secret_value(),
        database=database.database,
    )
