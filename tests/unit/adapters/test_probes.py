"""Who answers at an address, told by the first bytes: what the doctor says of servers that are not the right ones."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from acequia.adapters.minio_probe import MinioProbe
from acequia.adapters.rabbit_probe import RabbitProbe
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Buckets
from acequia.settings import MinioSettings, RabbitSettings


@asynccontextmanager
async def server(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A server that answers each piece it reads; its port."""

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        while piece := await reader.read(4096):
            writer.write(answer(piece))
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
        await asyncio.gather(*(task for task in serving if task))


def http(status: str, *headers: str, body: str = "") -> Callable[[bytes], bytes]:
    """Waits for the end of a request, as a web server does."""
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers))
    answer = f"{head}\r\n\r\n{body}".encode()
    return lambda piece: answer if b"\r\n\r\n" in piece else b""


async def ask_broker(port: int) -> None:
    async with RabbitProbe(RabbitSettings(url=SecretStr(f"amqp://a:b@127.0.0.1:{port}/"))) as probe:
        await probe.reach()


async def ask_store(port: int) -> None:
    settings = MinioSettings(endpoint=f"127.0.0.1:{port}", access_key="a", secret_key=SecretStr("b"))
    async with await MinioProbe.open(settings, Buckets()) as probe:
        await probe.reach()


async def test_a_broker_that_wants_tls():
    async with server(lambda _: b"\x15\x03\x01\x00\x02\x02\x46") as port:
        with pytest.raises(ConfigurationError, match="wants TLS") as caught:
            await ask_broker(port)
    assert "amqps://" in caught.value.mend


async def test_a_web_server_where_the_broker_should_be():
    async with server(http("400 Bad Request")) as port:
        with pytest.raises(ConfigurationError, match="speaks HTTP") as caught:
            await ask_broker(port)
    assert "5672" in caught.value.mend


async def test_something_else_where_the_broker_should_be():
    async with server(lambda _: b"220 mail.example ESMTP") as port:
        with pytest.raises(ConfigurationError, match="does not answer as a broker does"):
            await ask_broker(port)


async def test_a_store_that_wants_tls():
    said = "Client sent an HTTP request to an HTTPS server.\n"
    async with server(http("400 Bad Request", body=said)) as port:
        with pytest.raises(ConfigurationError, match="wants TLS") as caught:
            await ask_store(port)
    assert caught.value.mend == "set MINIO_SECURE=true"


async def test_a_web_server_where_the_store_should_be():
    async with server(http("404 Not Found", "Server: nginx")) as port:
        with pytest.raises(ConfigurationError, match=r"does not answer as an S3 API does \(HTTP 404, Server: nginx\)"):
            await ask_store(port)


async def test_a_store_that_is_starting_is_no_wrong_setting():
    async with server(http("503 Service Unavailable", "X-Amz-Request-Id: 1")) as port:
        with pytest.raises(TransientFailure, match="it is starting"):
            await ask_store(port)


async def test_how_far_the_stores_clock_is_off_is_told():
    date = "Date: Fri, 01 Jan 2100 00:00:00 GMT"
    async with server(http("403 Forbidden", "X-Amz-Request-Id: 1", date)) as port:
        settings = MinioSettings(endpoint=f"127.0.0.1:{port}", access_key="a", secret_key=SecretStr("b"))
        async with await MinioProbe.open(settings, Buckets()) as probe:
            assert (await probe.reach()).days > 365
