"""The servers that `deploy/native/stack.py` brings up, as the services and the tests see them."""

import json

import aio_pika
import asyncpg
import pytest
from miniopy_async import Minio
from miniopy_async.notificationconfig import NotificationConfig, QueueConfig


async def test_a_put_returns_once_its_event_lies_in_the_queue(stack, fresh_prefix):
    bucket = f"{fresh_prefix}-landing"
    connection = await aio_pika.connect(stack.rabbit.url.get_secret_value())
    async with connection, connection.channel() as channel:
        exchange = await channel.declare_exchange("acequia.objects", "topic", durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "object.landing")
        async with _client(stack) as minio:
            await minio.make_bucket(bucket)
            arn = stack.minio.arn.format(region=stack.minio.notify_region, target="LANDING")
            events = QueueConfig(arn, ["s3:ObjectCreated:Put"])
            await minio.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[events]))
            await _put(minio, bucket, "a.csv")
        message = await queue.get()
        await message.ack()
    assert json.loads(message.body)["Key"] == f"{bucket}/a.csv"


async def test_a_server_that_was_stopped_comes_back_with_its_data(stack, fresh_database, fresh_prefix):
    if stack.folder is None:
        pytest.skip("only natively are servers stopped one by one")
    url = stack.rabbit.url.get_secret_value()
    name = f"{fresh_prefix}-kept"
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"kept", delivery_mode=2), name)
    database = await _connect(fresh_database)
    await database.execute("CREATE TABLE kept AS SELECT 1 AS one")
    await database.close()

    for server, kill in (("rabbitmq", False), ("postgresql", True)):
        stack.stop_one(server, kill=kill)
    with pytest.raises(OSError):
        await _connect(fresh_database)
    for server in ("rabbitmq", "postgresql"):
        stack.start_one(server)

    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        queue = await channel.get_queue(name)
        message = await queue.get()
        await message.ack()
        await channel.queue_delete(name)
    assert message.body == b"kept"
    database = await _connect(fresh_database)
    assert await database.fetchval("SELECT one FROM kept") == 1
    await database.close()


def _client(stack):
    return Minio(
        stack.minio.endpoint,
        access_key=stack.minio.access_key,
        secret_key=stack.minio.secret_key.get_secret_value(),
        secure=stack.minio.secure,
        region=stack.minio.region,
    )


async def _put(minio, bucket, key):
    import io

    await minio.put_object(bucket, key, io.BytesIO(b"x"), 1)


async def _connect(there):
    return await asyncpg.connect(
        host=there.host,
        port=there.port,
        user=there.user,
        password=there.password.get_secret_value(),
        database=there.database,
    )


async def test_clean_queues_removes_queues_with_messages_and_with_other_retry_delays(stack, clean_queues):
    names = ("acequia.transformer", "acequia.transformer.retry.7s")
    url = stack.rabbit.url.get_secret_value()
    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for name in names:
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
            await channel.default_exchange.publish(aio_pika.Message(b"left over", delivery_mode=2), name)
    await clean_queues((7,))
    async with await aio_pika.connect(url) as connection:
        for name in names:
            channel = await connection.channel()
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await channel.get_queue(name)
