"""Whatever goes wrong between us and MinIO, in whichever request of whichever method, comes out as an error of ours.

The methods are found on the adapter, so that a new one cannot be forgotten. Each is run once on a server that does
what it is asked, to count its requests; then again for each of these, which meets the error.
"""

import errno
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.test_utils import TestServer

from acequia.adapters.minio import MinioStore
from acequia.errors import ConfigurationError, InputGone, RejectedInput, TransientFailure
from acequia.layers import Buckets, Layer
from acequia.ports import ObjectStore
from acequia.settings import MinioSettings
from acequia.topology import topology

from .conftest import AWAY, LATER, PERSON, kind_of, of_port, public

ETAG = {"ETag": '"0123456789abcdef0123456789abcdef"', "X-Amz-Request-Id": "1"}
KEY = ConnectionKey("127.0.0.1", 9000, False, True, None, None, None)
HTTP = SimpleNamespace(real_url="http://127.0.0.1:9000", url="http://127.0.0.1:9000", method="GET", headers={})


PART = 1000


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr("acequia.adapters.minio._PART", PART)


async def two_parts() -> AsyncIterator[bytes]:
    yield bytes(PART)
    yield b"more"


def calls(store, folder) -> dict[str, Callable[[], Awaitable[object]]]:
    """One call of each method of the port."""
    text = {"metadata": {}, "content_type": "text/plain"}
    whole = topology(Buckets())
    of_landing = tuple(n for n in whole.notifications if n.layer is Layer.LANDING)
    landing = replace(whole, layers=(Layer.LANDING,), notifications=of_landing)
    file = folder / "file"
    file.write_bytes(b"data")

    async def listed():
        return [info async for info in store.list_objects(Layer.RAW)]

    return {
        "head": lambda: store.head(Layer.RAW, "a"),
        "get": lambda: store.get(Layer.RAW, "a", folder / "copy", etag="x"),
        "read": lambda: store.read(Layer.RAW, "a"),
        "put": lambda: store.put(Layer.RAW, "a", file, **text),
        "create": lambda: store.create(Layer.RAW, "a", b"data", **text),
        "replace": lambda: store.replace(Layer.RAW, "a", b"data", etag="x", **text),
        "upload": lambda: store.upload(Layer.RAW, "a", two_parts(), **text),
        "list_objects": listed,
        "list_folders": lambda: store.list_folders(Layer.RAW),
        "remove": lambda: store.remove(Layer.RAW, "a"),
        "apply": lambda: store.apply(landing),
        "check": store.check,
        "close": store.close,
    }


METHODS = sorted(public(MinioStore) - {"open", "close"})
"""`open` sends nothing, and `close` ends quietly (tried below)."""


def test_no_method_is_left_out(tmp_path):
    assert set(calls(SimpleNamespace(check=None, close=None), tmp_path)) == public(MinioStore) - {"open"}
    assert public(MinioStore) - {"open"} == of_port(ObjectStore)


async def as_asked(request: web.Request) -> web.Response:
    """A server with one object in each bucket, which says yes to everything."""
    await request.read()
    query, of_bucket = request.query, request.path.count("/") < 2 or request.path.endswith("/")
    xml, body = {"content_type": "application/xml", "headers": ETAG}, ""
    if "notification" in query:
        body = "<NotificationConfiguration></NotificationConfiguration>"
    elif "lifecycle" in query and request.method == "GET":
        body = "<Error><Code>NoSuchLifecycleConfiguration</Code><Message>none</Message></Error>"
        return web.Response(status=404, text=body, **xml)
    elif "uploads" in query:
        body = "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>a</Key><UploadId>1</UploadId>"
        body += "</InitiateMultipartUploadResult>"
    elif "uploadId" in query and request.method == "POST":
        body = "<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket><Key>a</Key><ETag>e</ETag>"
        body += "</CompleteMultipartUploadResult>"
    elif "list-type" in query:
        body = "<ListBucketResult><Name>b</Name><Prefix></Prefix><IsTruncated>false</IsTruncated><Contents>"
        body += "<Key>a</Key><LastModified>2025-12-20T12:00:00.000Z</LastModified><ETag>e</ETag><Size>4</Size>"
        body += "</Contents></ListBucketResult>"
    elif request.method == "GET" and not of_bucket:
        return web.Response(body=b"data", headers=ETAG)
    if body:
        return web.Response(text=body, **xml)
    return web.Response(status=204 if request.method == "DELETE" else 200, headers=ETAG)


@asynccontextmanager
async def store_on(answer):
    app = web.Application(client_max_size=1 << 25)
    app.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(app)
    await server.start_server()
    settings = MinioSettings(endpoint=f"127.0.0.1:{server.port}", access_key="someone", secret_key="something")
    store = await MinioStore.open(settings, Buckets())
    try:
        yield store
    finally:
        await store.close()
        await server.close()


@asynccontextmanager
async def store_that_fails(monkeypatch, at, error):
    """Its `at`th request raises `error` where aiohttp would."""
    requests = itertools.count()
    send = aiohttp.ClientSession._request

    async def sent(session, *args, **more):
        if next(requests) == at:
            raise error()
        return await send(session, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(aiohttp.ClientSession, "_request", sent)
        async with store_on(as_asked) as store:
            yield store, requests


@asynccontextmanager
async def server_that_answers(at, status, code):
    """Its answer to the `at`th request is an error of S3."""
    requests = itertools.count()

    async def answer(request):
        if next(requests) != at:
            return await as_asked(request)
        await request.read()
        told = {"X-Amz-Request-Id": "1", "X-Minio-Error-Code": code}
        body = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>" if request.method != "HEAD" else ""
        return web.Response(status=status, text=body, content_type="application/xml", headers=told)

    async with store_on(answer) as store:
        yield store, requests


async def requests_of(method, monkeypatch, folder) -> int:
    async with store_that_fails(monkeypatch, -1, Exception) as (store, requests):
        await calls(store, folder)[method]()
        return next(requests)


@pytest.mark.parametrize("method", METHODS)
async def test_each_method_does_its_work_on_a_server_that_does_what_it_is_asked(method, monkeypatch, tmp_path):
    assert await requests_of(method, monkeypatch, tmp_path) >= 1


def certificate() -> Exception:
    return aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError("self signed"))


FROM_AIOHTTP = {
    "nobody listens": (lambda: aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "refused")), AWAY),
    "no such name": (lambda: aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "unknown name")), AWAY),
    "cut off": (aiohttp.ServerDisconnectedError, AWAY),
    "reset": (lambda: aiohttp.ClientOSError(errno.ECONNRESET, "reset"), AWAY),
    "reset while sending": (lambda: aiohttp.ClientConnectionResetError("closing transport"), AWAY),
    "broken pipe": (lambda: BrokenPipeError(errno.EPIPE, "broken pipe"), AWAY),
    "no answer to connect": (lambda: aiohttp.ConnectionTimeoutError("slow"), AWAY),
    "no answer": (lambda: aiohttp.SocketTimeoutError("slow"), LATER),
    "took too long": (TimeoutError, LATER),
    "half a body": (lambda: aiohttp.ClientPayloadError("half"), LATER),
    "no file handles left": (lambda: OSError(errno.EMFILE, "too many open files"), AWAY),
    "a full disk": (lambda: OSError(errno.ENOSPC, "no space"), LATER),
    "not HTTP": (lambda: aiohttp.ClientResponseError(HTTP, (), status=400, message="bad status line"), PERSON),
    "round in a circle": (lambda: aiohttp.TooManyRedirects(HTTP, ()), PERSON),
    "a certificate nobody knows": (certificate, PERSON),
    "no TLS": (lambda: aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError("wrong version")), PERSON),
    "some other error of aiohttp": (lambda: aiohttp.ClientError("what is this"), LATER),
}


@pytest.mark.parametrize("method", METHODS)
async def test_every_error_of_the_transport_becomes_ours(method, monkeypatch, tmp_path):
    count = await requests_of(method, monkeypatch, tmp_path)
    for name, (error, expected) in FROM_AIOHTTP.items():
        for at in range(count):
            async with store_that_fails(monkeypatch, at, error) as (store, _):
                with pytest.raises((TransientFailure, ConfigurationError)) as caught:
                    await calls(store, tmp_path)[method]()
            assert kind_of(caught.value) == expected, f"{name}, request {at}: {caught.value!r}"
            assert "something" not in str(caught.value), "the secret key is told"


FROM_S3 = {
    (500, "InternalError"): LATER,
    (503, "SlowDown"): LATER,
    (503, "SlowDownRead"): LATER,
    (503, "ServiceUnavailable"): LATER,
    (503, "XMinioServerNotInitialized"): AWAY,
    (507, "XMinioStorageFull"): LATER,
    (409, "OperationAborted"): LATER,
    (400, "RequestTimeout"): LATER,
    (403, "AccessDenied"): PERSON,
    (403, "InvalidAccessKeyId"): PERSON,
    (403, "SignatureDoesNotMatch"): PERSON,
    (403, "RequestTimeTooSkewed"): PERSON,
    (404, "NoSuchBucket"): PERSON,
}


@pytest.mark.parametrize("method", METHODS)
async def test_every_refusal_of_s3_becomes_ours(method, monkeypatch, tmp_path):
    count = await requests_of(method, monkeypatch, tmp_path)
    for (status, code), expected in FROM_S3.items():
        for at in range(count):
            async with server_that_answers(at, status, code) as (store, _):
                try:
                    await calls(store, tmp_path)[method]()
                except (TransientFailure, ConfigurationError) as error:
                    # an answer to HEAD has no body, and of a 5xx the client library keeps the status alone
                    also = LATER if expected == AWAY and "answered 503" in str(error) else expected
                    assert kind_of(error) in (expected, also), f"{status} {code}, request {at}: {error!r}"
                    assert not (method == "check" and code == "NoSuchBucket"), "nobody has made the buckets yet"
                else:
                    # before `apply` a missing bucket is no trouble to `check`, and `apply` makes it
                    no_trouble = code == "NoSuchBucket" if method == "check" else method == "apply" and at == 0
                    assert no_trouble and status in (404, 409), f"{status} {code}, request {at} went unnoticed"


ABSENT = {"head": None, "read": None, "get": InputGone, "replace": None, "remove": None, "check": None}
"""What a method says of an object that is not there. All others have no use for such an answer: it is a trouble."""


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchUpload", "NoSuchVersion"])
@pytest.mark.parametrize("method", METHODS)
async def test_an_object_or_upload_that_is_not_there_is_told_as_the_port_says(method, code, monkeypatch, tmp_path):
    # the first request of `apply` asks whether there is a bucket
    for at in range(method == "apply", await requests_of(method, monkeypatch, tmp_path)):
        async with server_that_answers(at, 404, code) as (store, _):
            wanted = ABSENT.get(method, TransientFailure)
            if wanted is None:
                assert await calls(store, tmp_path)[method]() is None
            else:
                with pytest.raises(wanted):
                    await calls(store, tmp_path)[method]()


CONDITION = {"create": None, "replace": None, "get": InputGone}


@pytest.mark.parametrize("method", METHODS)
async def test_a_condition_that_does_not_hold_is_told_as_the_port_says(method, monkeypatch, tmp_path):
    for at in range(await requests_of(method, monkeypatch, tmp_path)):
        async with server_that_answers(at, 412, "PreconditionFailed") as (store, _):
            wanted = CONDITION.get(method, TransientFailure)
            if wanted is None:
                assert await calls(store, tmp_path)[method]() is None
            else:
                with pytest.raises(wanted):
                    await calls(store, tmp_path)[method]()


@pytest.mark.parametrize("method", METHODS)
async def test_a_key_that_the_store_refuses_is_the_inputs_fault(method, monkeypatch, tmp_path):
    for at in range(await requests_of(method, monkeypatch, tmp_path)):
        async with server_that_answers(at, 400, "XMinioInvalidObjectName") as (store, _):
            with pytest.raises(RejectedInput, match="bad_key"):
                await calls(store, tmp_path)[method]()


@pytest.mark.parametrize("body", ["", "<html><body>hello</body></html>", "<ListBucketResult/>", "not XML", "<Error/>"])
@pytest.mark.parametrize("method", METHODS)
async def test_an_answer_that_means_nothing_is_never_a_bug_of_ours(method, body, monkeypatch, tmp_path):
    for at in range(await requests_of(method, monkeypatch, tmp_path)):
        requests = itertools.count()

        async def answer(request, at=at, requests=requests):
            if next(requests) != at:
                return await as_asked(request)
            await request.read()
            return web.Response(text=body if request.method != "HEAD" else "", content_type="application/xml")

        async with store_on(answer) as store:
            try:
                await calls(store, tmp_path)[method]()
            except (TransientFailure, ConfigurationError):
                continue


@pytest.mark.parametrize("method", METHODS)
async def test_a_closed_store_says_so(method, tmp_path):
    async with store_on(as_asked) as store:
        await store.close()
        with pytest.raises(TransientFailure) as caught:
            await calls(store, tmp_path)[method]()
        assert caught.value.away


async def test_closing_is_quiet_and_may_come_twice():
    async with store_on(as_asked) as store:
        await store.close()
        await store.close()
