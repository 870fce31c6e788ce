"""The MinIO adapter without a MinIO: what it makes of errors, and what it refuses to send."""

import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from acequia.adapters.minio import MinioStore
from acequia.errors import ConfigurationError, RejectedInput, TransientFailure
from acequia.layers import Buckets, Layer
from acequia.ports import ObjectStore
from acequia.settings import MinioSettings
from acequia.topology import topology

PART = 8 << 20


def settings(endpoint, **changes):
    return MinioSettings(endpoint=endpoint, access_key="someone", secret_key="something", **changes)


@pytest.fixture
def dead_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def three_megabytes_thrice() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield bytes(PART)


async def listed(store):
    return [info async for info in store.list_objects(Layer.RAW)]


def calls(store, folder) -> dict[str, Callable[[], Awaitable[object]]]:
    """One call of each method of the port."""
    text = {"metadata": {}, "content_type": "text/plain"}
    file = folder / "file"
    file.write_bytes(b"data")
    return {
        "head": lambda: store.head(Layer.RAW, "a"),
        "get": lambda: store.get(Layer.RAW, "a", folder / "copy"),
        "read": lambda: store.read(Layer.RAW, "a"),
        "put": lambda: store.put(Layer.RAW, "a", file, **text),
        "create": lambda: store.create(Layer.RAW, "a", b"data", **text),
        "replace": lambda: store.replace(Layer.RAW, "a", b"data", etag="x", **text),
        "upload": lambda: store.upload(Layer.RAW, "a", three_megabytes_thrice(), **text),
        "list_objects": lambda: listed(store),
        "list_folders": lambda: store.list_folders(Layer.RAW),
        "remove": lambda: store.remove(Layer.RAW, "a"),
        "apply": lambda: store.apply(topology(Buckets())),
        "check": store.check,
    }


METHODS = sorted(
    name
    for name, _ in inspect.getmembers(ObjectStore, inspect.isfunction)
    if not name.startswith("_") and name != "close"
)


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_says_that_minio_is_away(method, dead_port, tmp_path):
    store = await MinioStore.open(settings(f"127.0.0.1:{dead_port}"), Buckets())
    try:
        with pytest.raises(TransientFailure) as caught:
            await calls(store, tmp_path)[method]()
        assert (caught.value.dependency, caught.value.away) == ("minio", True)
    finally:
        await store.close()


@asynccontextmanager
async def store_on(answer):
    """A store whose server answers each request with what `answer` makes of it."""
    app = web.Application(client_max_size=PART * 4)
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    store = await MinioStore.open(settings(f"127.0.0.1:{server.port}"), Buckets())
    try:
        yield store
    finally:
        await store.close()
        await server.close()


async def as_the_console(request: web.Request) -> web.Response:
    await request.read()
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidArgument</Code>'
        "<Message>S3 API Requests must be made to API port.</Message><RequestId>0</RequestId></Error>"
    )
    return web.Response(status=400, text=body, content_type="text/xml", headers={"Location": "http://127.0.0.1:9000"})


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_says_that_the_endpoint_is_the_consoles_port(method, tmp_path):
    async with store_on(as_the_console) as store:
        with pytest.raises(ConfigurationError, match="port of MinIO's console"):
            await calls(store, tmp_path)[method]()


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_takes_a_slow_down_for_transient_and_not_for_away(method, tmp_path):
    async def busy(request):
        await request.read()
        body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
        return web.Response(
            status=503, text=body, content_type="application/xml", headers={"X-Minio-Error-Code": "SlowDown"}
        )

    async with store_on(busy) as store:
        with pytest.raises(TransientFailure) as caught:
            await calls(store, tmp_path)[method]()
        assert not caught.value.away


@pytest.mark.parametrize("method", METHODS)
async def test_a_store_that_is_being_stopped_is_no_wrong_port(method, tmp_path):
    async def stopping(request):  # MinIO's bare answer between its signal and its listener's end
        await request.read()
        return web.Response(status=499, headers={"X-Amz-Request-Id": "1"})

    async with store_on(stopping) as store:
        with pytest.raises(TransientFailure, match="499"):
            await calls(store, tmp_path)[method]()


@pytest.mark.parametrize("method", METHODS)
async def test_a_web_page_is_no_s3(method, tmp_path):
    async def page(request):
        await request.read()
        return web.Response(status=404, text="<html>nothing here</html>", content_type="text/html")

    async with store_on(page) as store:
        with pytest.raises(ConfigurationError, match="does not answer as an S3 API"):
            await calls(store, tmp_path)[method]()


async def test_a_download_that_breaks_off_is_transient_and_leaves_no_file(tmp_path):
    async def half(request):
        response = web.StreamResponse(headers={"Content-Length": "1000000", "ETag": '"x"'})
        await response.prepare(request)
        await response.write(b"only this")
        request.transport.abort()
        return response

    async with store_on(half) as store:
        with pytest.raises(TransientFailure):
            await store.get(Layer.RAW, "a", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


async def test_a_completion_that_fails_inside_a_200_aborts_the_upload():
    asked = []

    async def server(request):
        await request.read()
        asked.append((request.method, dict(request.query)))
        if request.method == "POST" and "uploads" in request.query:
            return web.Response(text="<R><UploadId>u1</UploadId></R>", content_type="application/xml")
        if request.method == "POST":
            return web.Response(text="<Error><Code>InternalError</Code></Error>", content_type="application/xml")
        return web.Response(status=200 if request.method == "PUT" else 204, headers={"ETag": '"e"'})

    async with store_on(server) as store:
        with pytest.raises(TransientFailure):
            await store.upload(Layer.RAW, "a", three_megabytes_thrice(), metadata={}, content_type="text/plain")
    assert asked[-1] == ("DELETE", {"uploadId": "u1"})


async def test_a_condition_travels_as_a_header_of_its_own():
    seen = []

    async def server(request):
        await request.read()
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(headers={"ETag": '"e"'})

    async with store_on(server) as store:
        await store.create(Layer.RAW, "a", b"", metadata={"Run": "1"}, content_type="text/plain")
        await store.replace(Layer.RAW, "a", b"", etag="abc", metadata={}, content_type="text/plain")
    assert (seen[0]["if-none-match"], seen[0]["x-amz-meta-run"], seen[1]["if-match"]) == ("*", "1", '"abc"')
    assert not [name for name in (*seen[0], *seen[1]) if name.startswith("x-amz-meta-if")]


@pytest.mark.parametrize("key", ["", "/a", "a//b", "..", "a/../b", "./a", "x" * 1025, "y" * 256, "nul\0", "\ud800"])
async def test_keys_that_minio_refuses_or_renames_are_bad_keys(key, dead_port):
    store = await MinioStore.open(settings(f"127.0.0.1:{dead_port}"), Buckets())
    try:
        with pytest.raises(RejectedInput) as caught:
            await store.put(Layer.RAW, key, b"", metadata={}, content_type="text/plain")
        assert caught.value.rule == "bad_key"
    finally:
        await store.close()


@pytest.mark.parametrize("value", ["ü", "two\nlines", " led by a space"])
async def test_metadata_that_cannot_travel_is_refused_before_anything_is_sent(value, dead_port):
    store = await MinioStore.open(settings(f"127.0.0.1:{dead_port}"), Buckets())
    try:
        with pytest.raises(ValueError, match="ASCII"):
            await store.put(Layer.RAW, "a", b"", metadata={"name": value}, content_type="text/plain")
    finally:
        await store.close()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000/path", "host:port", ""])
async def test_an_endpoint_that_is_no_host_and_port_is_a_configuration_error(endpoint):
    with pytest.raises(ConfigurationError, match="MINIO_ENDPOINT"):
        await MinioStore.open(settings(endpoint), Buckets())


async def test_a_bucket_prefix_that_makes_no_bucket_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="ACEQUIA_BUCKET_PREFIX"):
        await MinioStore.open(settings("127.0.0.1:9000"), Buckets("Not_A_Bucket"))


async def test_tls_where_the_server_speaks_none_is_a_configuration_error():
    async def anything(request):
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", anything)
    server = TestServer(app)
    await server.start_server()
    assert ssl.HAS_TLSv1_3
    store = await MinioStore.open(settings(f"127.0.0.1:{server.port}", secure=True), Buckets())
    try:
        with pytest.raises(ConfigurationError, match="MINIO_SECURE"):
            await store.check()
    finally:
        await store.close()
        await server.close()
