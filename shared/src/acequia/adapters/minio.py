"""The object store on MinIO, or on anything that speaks S3 as MinIO does.

Third-party errors end here: what comes out is an error of ours, named by what follows from it.
"""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast
from xml.etree import ElementTree as ET  # only its ParseError is used: the parsing is done by miniopy-async

import aiohttp
from miniopy_async.api import Minio
from miniopy_async.commonconfig import ENABLED, Filter
from miniopy_async.datatypes import Object, Part
from miniopy_async.error import InvalidResponseError, MinioException, S3Error, ServerError
from miniopy_async.helpers import check_bucket_name
from miniopy_async.lifecycleconfig import AbortIncompleteMultipartUpload, LifecycleConfig, Rule
from miniopy_async.notificationconfig import NotificationConfig, QueueConfig, SuffixFilterRule

from acequia.adapters.tls import trusting
from acequia.errors import AcequiaError, ConfigurationError, InputGone, RejectedInput, TransientFailure
from acequia.layers import Buckets, Layer
from acequia.ports import ObjectInfo
from acequia.settings import MinioSettings
from acequia.topology import Notification, Topology

log = logging.getLogger(__name__)

EVENTS = (
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
)
"""By name: `s3:ObjectCreated:*` would include tagging."""

_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 30.0
_CHECK_SECONDS = 5.0
_SLOWEST_BYTES_PER_SECOND = 1_000_000
_BLOCK = 1 << 20
_PART = 8 << 20
_LARGE_PART = 64 << 20
_LARGE_PART_FROM = 1000
"""S3 allows 10,000 parts: small ones first, so that memory stays small, then large ones: 584 GB in all."""
_KEY_LIMIT = 1024
_SEGMENT_LIMIT = 255
_META = "x-amz-meta-"
_ABORT_RULE = "acequia-abort-uploads"

_FAILURES = (MinioException, aiohttp.ClientError, TimeoutError, OSError, ValueError, ET.ParseError)
_BAD_KEY = {
    "XMinioInvalidObjectName",
    "XMinioInvalidResourceName",
    "XMinioObjectExistsAsDirectory",
    "XMinioParentIsObject",
    "KeyTooLongError",
    "InvalidURI",
}
_REFUSED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidTokenId",
    "InvalidToken",
    "ExpiredToken",
    "AuthorizationHeaderMalformed",
}
_AWAY = {"XMinioServerNotInitialized", "XMinioIAMNotInitialized", "XMinioBucketMetadataNotInitialized"}
_STOPPING = 499
"""MinIO's status, with nothing else, for what comes between its signal to stop and the end of its listener
(`maxClients` in cmd/handler-api.go, February 2026)."""
_UNSUPPORTED_RULE = {"InvalidArgument", "MalformedXML", "NotImplemented"}
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class MinioStore:
    """Objects in MinIO's buckets. One per process: it holds one pool of connections."""

    def __init__(
        self, settings: MinioSettings, buckets: Buckets, session: aiohttp.ClientSession, client: Minio
    ) -> None:
        self._settings = settings
        self._buckets = buckets
        self._session = session
        self._client = client
        self._aborts: set[asyncio.Task[None]] = set()
        self._applied = False

    @classmethod
    async def open(cls, settings: MinioSettings, buckets: Buckets) -> Self:
        """Make the client; nothing is sent yet, so a store that is away does not matter here (`check` tells).

        Raises ConfigurationError where the endpoint, the CA file or the buckets' prefix cannot be used at all.
        """
        for layer in Layer:
            try:
                check_bucket_name(buckets.of(layer), True)
            except ValueError as error:
                raise ConfigurationError(f"ACEQUIA_BUCKET_PREFIX={buckets.prefix}: {error}") from None
        if not settings.endpoint or any(sign in "/@" or sign.isspace() for sign in settings.endpoint):
            raise ConfigurationError(f"MINIO_ENDPOINT={settings.endpoint}: host:port is expected, without http://")
        trusted = trusting(settings.ca_file, "MINIO_CA_FILE") if settings.secure else True
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=256, ssl=trusted),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_CALL_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # the object's bytes as they lie there, whatever its Content-Encoding says
            headers={"Accept-Encoding": "identity"},
        )
        try:
            client = Minio(
                settings.endpoint,
                access_key=settings.access_key,
                secret_key=settings.secret_key.get_secret_value(),
                session_token=settings.session_token.get_secret_value() or None,
                secure=settings.secure,
                region=settings.region,
                session=session,
            )
        except ValueError as error:
            await session.close()
            raise ConfigurationError(f"MINIO_ENDPOINT={settings.endpoint}: {error}; host:port is expected") from None
        return cls(settings, buckets, session, client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # reading

    async def head(self, layer: Layer, key: str) -> ObjectInfo | None:
        return await self._head(layer, key, _CALL_SECONDS)

    async def _head(self, layer: Layer, key: str, seconds: float) -> ObjectInfo | None:
        bucket = self._place(layer, key)
        try:
            with self._edge(bucket, key):
                async with asyncio.timeout(seconds):
                    found = await self._client.stat_object(bucket, key)
                headers = cast("Mapping[str, str]", found.metadata)
                return self._info(layer, key, headers, found.size or 0)
        except _Missing:
            return None

    async def get(self, layer: Layer, key: str, to: Path, *, etag: str | None = None) -> ObjectInfo:
        bucket = self._place(layer, key)
        try:
            with self._edge(bucket, key):
                response = await self._fetch(bucket, key, etag)
                async with response:
                    size = await _stream(response, to)
                    return self._info(layer, key, response.headers, size)
        except _Missing:
            raise InputGone(self._buckets.uri(layer, key), superseded=False) from None
        except _ConditionFailed:
            raise InputGone(self._buckets.uri(layer, key), superseded=True) from None

    async def read(self, layer: Layer, key: str) -> tuple[bytes, ObjectInfo] | None:
        bucket = self._place(layer, key)
        try:
            with self._edge(bucket, key):
                async with asyncio.timeout(_CALL_SECONDS):
                    async with await self._fetch(bucket, key, None) as response:
                        body = await response.read()
                        return body, self._info(layer, key, response.headers, len(body))
        except _Missing:
            return None

    async def list_objects(self, layer: Layer, prefix: str = "", *, start_after: str = "") -> AsyncIterator[ObjectInfo]:
        bucket = self._buckets.of(layer)
        found = aiter(self._client.list_objects(bucket, prefix=prefix, recursive=True, start_after=start_after or None))
        with self._edge(bucket, prefix):
            async for entry in found:
                yield self._listed(layer, entry)

    async def list_folders(self, layer: Layer, prefix: str = "") -> list[str]:
        bucket = self._buckets.of(layer)
        with self._edge(bucket, prefix):
            found = aiter(self._client.list_objects(bucket, prefix=prefix, recursive=False))
            return sorted([entry.object_name or "" async for entry in found if entry.is_dir])

    # writing

    async def put(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo:
        return await self._put(layer, key, data, metadata, content_type, {})

    async def create(
        self, layer: Layer, key: str, data: Path | bytes, *, metadata: Mapping[str, str], content_type: str
    ) -> ObjectInfo | None:
        """Where our own answer got lost and the write was sent again, None may mean that we made it ourselves."""
        try:
            return await self._put(layer, key, data, metadata, content_type, {"If-None-Match": "*"})
        except _ConditionFailed:
            return None

    async def replace(
        self,
        layer: Layer,
        key: str,
        data: bytes,
        *,
        etag: str,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo | None:
        try:
            return await self._put(layer, key, data, metadata, content_type, {"If-Match": f'"{etag}"'})
        except (_ConditionFailed, _Missing):
            return None

    async def upload(
        self,
        layer: Layer,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        content_type: str,
    ) -> ObjectInfo:
        """Multipart, one part at a time; what fits into one part is one PUT.

        Our own multipart: `put_object(length=-1)` fails on an empty stream and on a whole number of parts.
        What `chunks` raises passes through. Memory: about two parts.
        """
        bucket = self._place(layer, key)
        metadata = {name.lower(): value for name, value in metadata.items()}
        headers = _headers(metadata, content_type)
        parts: list[Part] = []
        total = 0
        upload_id: str | None = None
        block = BytesIO()
        try:
            async for chunk in chunks:
                block.write(chunk)
                if (size := block.tell()) >= (_PART if len(parts) < _LARGE_PART_FROM else _LARGE_PART):
                    upload_id = upload_id or await self._begin(bucket, key, headers)
                    parts.append(await self._part(bucket, key, upload_id, len(parts) + 1, block, size))
                    total += size
                    block = BytesIO()
            size = block.tell()
            if upload_id is None:
                with self._edge(bucket, key):
                    return await self._send(layer, key, block, size, headers, metadata)
            if size:
                parts.append(await self._part(bucket, key, upload_id, len(parts) + 1, block, size))
            etag = await self._complete(bucket, key, upload_id, parts)
        except BaseException:
            if upload_id is not None:
                await asyncio.shield(self._in_background(self._abort(bucket, key, upload_id)))
            raise
        uri = self._buckets.uri(layer, key)
        return ObjectInfo(layer, key, uri, etag, total + size, datetime.now(UTC), dict(metadata))

    async def remove(self, layer: Layer, key: str) -> None:
        bucket = self._place(layer, key)
        try:
            with self._edge(bucket, key):
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._client.remove_object(bucket, key)
        except _Missing:
            return

    # the whole

    async def apply(self, topology: Topology) -> None:
        """Buckets, the rule that ends abandoned uploads to LANDING, and notifications. Writes only what differs."""
        buckets = topology.buckets
        await _all(self._make_bucket(buckets.of(layer)) for layer in topology.layers)
        tasks = [self._notify(buckets.of(layer), layer, topology.notifications) for layer in topology.layers]
        if Layer.LANDING in topology.layers:
            tasks.append(self._end_abandoned_uploads(buckets.of(Layer.LANDING)))
        await _all(tasks)
        self._applied = True

    async def check(self) -> None:
        """One HEAD. A missing bucket counts only once `apply` has made it."""
        try:
            await self._head(Layer.LEDGER, "check", _CHECK_SECONDS)
        except _NoBucket:
            if self._applied:
                raise

    async def close(self) -> None:
        if self._aborts:
            await asyncio.wait(self._aborts, timeout=_CONNECT_SECONDS)
        await self._session.close()

    # one request

    def _place(self, layer: Layer, key: str) -> str:
        """The bucket. RejectedInput for keys that MinIO refuses, or would store under another name."""
        segments = key.split("/")
        try:
            encoded = key.encode()
        except UnicodeEncodeError:
            raise RejectedInput("bad_key", f"the key {key!r} is not valid Unicode") from None
        if (
            not key
            or len(encoded) > _KEY_LIMIT
            or "\0" in key
            or any(segment in (".", "..") or len(segment.encode()) > _SEGMENT_LIMIT for segment in segments)
            or "" in segments[:-1]
        ):
            raise RejectedInput("bad_key", f"the store takes no key like {key[:100]!r}", key=key)
        return self._buckets.of(layer)

    async def _fetch(self, bucket: str, key: str, etag: str | None) -> aiohttp.ClientResponse:
        """The answer to a GET, its body not yet read. It must be released."""
        headers: dict[str, str | list[str] | tuple[str]] = {"If-Match": f'"{etag}"'} if etag else {}
        async with asyncio.timeout(_CALL_SECONDS):
            answer: aiohttp.ClientResponse = await self._client.get_object(bucket, key, request_headers=headers)
        return answer

    async def _put(
        self,
        layer: Layer,
        key: str,
        data: Path | bytes,
        metadata: Mapping[str, str],
        content_type: str,
        condition: Mapping[str, str],
    ) -> ObjectInfo:
        bucket = self._place(layer, key)
        metadata = {name.lower(): value for name, value in metadata.items()}
        headers = {**_headers(metadata, content_type), **condition}
        if isinstance(data, bytes):
            with self._edge(bucket, key):
                return await self._send(layer, key, BytesIO(data), len(data), headers, metadata)
        size = data.stat().st_size
        if size <= _BLOCK:
            # in one go: aiohttp and the signer would read it piece by piece, each in a worker thread
            body = await asyncio.to_thread(data.read_bytes)
            with self._edge(bucket, key):
                return await self._send(layer, key, BytesIO(body), len(body), headers, metadata)
        file = await asyncio.to_thread(data.open, "rb")
        try:
            with self._edge(bucket, key):
                return await self._send(layer, key, file, size, headers, metadata)
        finally:
            file.close()

    async def _send(
        self,
        layer: Layer,
        key: str,
        body: BinaryIO,
        size: int,
        headers: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> ObjectInfo:
        """One PUT, streamed. The client's own `put_object` takes no headers, hence its inner method: the one place
        on which every conditional write stands (tests/integration/adapters holds it down)."""
        body.seek(0)
        bucket = self._buckets.of(layer)
        async with asyncio.timeout(_CALL_SECONDS + size / _SLOWEST_BYTES_PER_SECOND):
            done = await self._client._put_object(bucket, key, body, dict(headers))
        answer = cast("Mapping[str, str]", done.http_headers)
        if not done.etag:
            raise ValueError("the answer to a PUT names no etag")
        at = _http_date(answer.get("Date"))
        return ObjectInfo(layer, key, self._buckets.uri(layer, key), done.etag, size, at, dict(metadata))

    # multipart

    async def _begin(self, bucket: str, key: str, headers: Mapping[str, str]) -> str:
        """Id of a new multipart upload. If we are cancelled meanwhile, it is aborted as soon as its id is known."""

        async def begin() -> str:
            with self._edge(bucket, key):
                async with asyncio.timeout(_CALL_SECONDS):
                    made: str = await self._client._create_multipart_upload(bucket, key, dict(headers))
            return made

        async def undo() -> None:
            try:
                upload_id = await begun
            except AcequiaError:
                return
            await self._abort(bucket, key, upload_id)

        begun = asyncio.create_task(begin())
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            self._in_background(undo())
            raise

    async def _part(self, bucket: str, key: str, upload_id: str, number: int, body: BytesIO, size: int) -> Part:
        body.seek(0)
        with self._edge(bucket, key):
            async with asyncio.timeout(_CALL_SECONDS + size / _SLOWEST_BYTES_PER_SECOND):
                etag = await self._client._upload_part(bucket, key, body, None, upload_id, number)
        return Part(number, etag)

    async def _complete(self, bucket: str, key: str, upload_id: str, parts: list[Part]) -> str:
        with self._edge(bucket, key):
            # the store assembles the object while we wait
            async with asyncio.timeout(10 * _CALL_SECONDS):
                done = await self._client._complete_multipart_upload(bucket, key, upload_id, parts)
        etag: str | None = done.etag
        if not etag:  # S3 may say 200 and put an error into the body
            raise TransientFailure(f"the upload of {bucket}/{key} could not be completed", dependency="minio")
        return etag

    async def _abort(self, bucket: str, key: str, upload_id: str) -> None:
        try:
            with self._edge(bucket, key):
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._client._abort_multipart_upload(bucket, key, upload_id)
        except AcequiaError as error:
            log.warning("an upload of %s/%s is left to the bucket's lifecycle rule: %s", bucket, key, error)

    def _in_background(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Something that a cancel must not stop. `close` waits for it."""
        task = asyncio.create_task(work)
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)
        return task

    # buckets

    async def _make_bucket(self, bucket: str) -> None:
        with self._edge(bucket, ""):
            async with asyncio.timeout(_CALL_SECONDS):
                if await self._client.bucket_exists(bucket):
                    return
                try:
                    await self._client.make_bucket(bucket)
                except S3Error:
                    # another service makes it at the same time
                    if not await self._client.bucket_exists(bucket):
                        raise

    async def _end_abandoned_uploads(self, bucket: str) -> None:
        rule = Rule(
            ENABLED,
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=1),
            rule_filter=Filter(prefix=""),
            rule_id=_ABORT_RULE,
        )
        with self._edge(bucket, ""):
            async with asyncio.timeout(_CALL_SECONDS):
                there = await self._client.get_bucket_lifecycle(bucket)
                others = there.rules if there else []
                if any(known.rule_id == _ABORT_RULE for known in others):
                    return
                try:
                    await self._client.set_bucket_lifecycle(bucket, LifecycleConfig([*others, rule]))
                except S3Error as error:
                    if error.code not in _UNSUPPORTED_RULE:
                        raise
                    # MinIO knows no such rule: it sweeps by itself (MINIO_API_STALE_UPLOADS_EXPIRY, a day)
                    log.debug("%s takes no rule that ends abandoned uploads: %s", bucket, error.message)

    async def _notify(self, bucket: str, layer: Layer, notifications: Sequence[Notification]) -> None:
        """Replace what is ours among the bucket's notifications; what is others' stays as it is."""
        wanted = [(_notification_id(layer, n), n, self._arn(n.target)) for n in notifications if n.layer == layer]
        ours = {name for name, _, _ in wanted}
        with self._edge(bucket, ""):
            async with asyncio.timeout(_CALL_SECONDS):
                there = await self._client.get_bucket_notification(bucket)
                queues = there.queue_config_list or []
                known = {_meaning(q) for q in queues if q.config_id in ours}
                configs = [_queue_config(name, n, arn) for name, n, arn in wanted]
                if known == {_meaning(config) for config in configs}:
                    return
                merged = NotificationConfig(
                    there.cloud_func_config_list,
                    [*(q for q in queues if q.config_id not in ours), *configs],
                    there.topic_config_list,
                )
                try:
                    await self._client.set_bucket_notification(bucket, merged)
                except S3Error as error:
                    if error.code != "InvalidArgument":
                        raise
                    raise ConfigurationError(_refused_targets(bucket, wanted, str(error.message))) from None

    def _arn(self, target: str) -> str:
        return self._settings.arn.format(region=self._settings.notify_region, target=target)

    # answers

    def _info(self, layer: Layer, key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
        etag = headers.get("ETag", "").strip('"')
        if not etag:
            raise ValueError("the answer names no etag")
        metadata = {
            name.lower().removeprefix(_META): value for name, value in headers.items() if name.lower().startswith(_META)
        }
        at = _http_date(headers.get("Last-Modified"))
        return ObjectInfo(layer, key, self._buckets.uri(layer, key), etag, size, at, metadata)

    def _listed(self, layer: Layer, entry: Object) -> ObjectInfo:
        key = entry.object_name or ""
        etag = (entry.etag or "").strip('"')
        at = entry.last_modified or datetime.now(UTC)
        return ObjectInfo(layer, key, self._buckets.uri(layer, key), etag, entry.size or 0, at)

    # errors

    @contextmanager
    def _edge(self, bucket: str, key: str) -> Iterator[None]:
        """The one place where third-party errors become ours. `_Missing` and `_ConditionFailed` are for the caller."""
        if self._session.closed:
            raise _trouble("the store is closed", away=True)
        try:
            yield
        except AcequiaError:
            raise
        except _FAILURES as error:
            raise self._translated(error, bucket, key) from error

    def _translated(self, error: Exception, bucket: str, key: str) -> Exception:
        result: Exception
        match error:
            case S3Error():
                result = self._refusal(error, bucket, key)
            case ServerError():
                result = _trouble(f"{self._server} answered {error.status_code}")
            case InvalidResponseError():
                result = self._not_s3(error)
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
                result = ConfigurationError(
                    f"MINIO_ENDPOINT={self._settings.endpoint}, MINIO_SECURE={self._settings.secure}: "
                    f"no TLS connection: {error} (MINIO_CA_FILE: the CAs that are trusted)"
                )
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                result = self._no_s3("not even HTTP")
            case aiohttp.ConnectionTimeoutError():
                result = _trouble(f"{self._server} does not answer", away=True)
            case TimeoutError():
                result = _trouble(f"{self._server} took too long over {bucket}/{key}")
            case aiohttp.ClientPayloadError():
                result = _trouble(f"the transfer of {bucket}/{key} broke off: {error}")
            case aiohttp.ClientConnectionError():
                result = _trouble(f"{self._server} cannot be reached: {error}", away=True)
            case OSError() if error.errno in _FULL_DISK:
                result = TransientFailure(str(error), dependency="disk")
            case OSError():
                result = _trouble(f"{self._server} cannot be reached: {error}", away=True)
            case _:
                result = _trouble(f"{self._server} gave an answer that cannot be read: {error}")
        return result

    @property
    def _server(self) -> str:
        return f"MinIO at {self._settings.endpoint}"

    def _refusal(self, error: S3Error, bucket: str, key: str) -> Exception:
        # an answer to HEAD has no body: MinIO says in headers what it would have said there
        headers = error.response.headers
        code = headers.get("X-Minio-Error-Code") or error.code or ""
        message = headers.get("X-Minio-Error-Desc", "").strip('"') or error.message
        status = error.response.status
        result: Exception
        if status < 500 and "X-Amz-Request-Id" not in headers:
            result = self._console() if status == 400 and headers.get("Location") else self._no_s3(f"HTTP {status}")
        elif status == 412 or code == "PreconditionFailed":
            result = _ConditionFailed(f"{self._server}: {code}: {message} ({bucket}/{key})", dependency="minio")
        elif code in ("NoSuchKey", "NoSuchUpload") or (status == 404 and code == "NoSuchVersion"):
            result = _Missing(f"{self._server}: {code}: {message} ({bucket}/{key})", dependency="minio")
        elif code == "NoSuchBucket":
            result = _no_bucket(bucket)
        elif code in _BAD_KEY:
            result = RejectedInput("bad_key", f"the store refuses the key {key[:100]!r}: {message}", key=key)
        elif code in _REFUSED:
            result = ConfigurationError(
                f"{self._server} refuses MINIO_ACCESS_KEY={self._settings.access_key} ({code}: {message})"
            )
        elif code == "RequestTimeTooSkewed":
            result = ConfigurationError(f"the clocks of this machine and of {self._server} differ too much")
        else:
            result = _trouble(f"{self._server}: {code}: {message} ({bucket}/{key})", away=code in _AWAY)
        return result

    def _not_s3(self, error: InvalidResponseError) -> Exception:
        """Of an answer that is not S3's XML: MinIO's console, a proxy, some other server."""
        text = str(error)
        if "made to API port" in text:
            return self._console()
        if "HTTP request to an HTTPS server" in text:
            return ConfigurationError(f"{self._server} wants TLS: set MINIO_SECURE=true")
        if error._code >= 500 or error._code in (408, 429, _STOPPING):
            return _trouble(f"{self._server} answered {error._code}")
        return self._no_s3(f"HTTP {error._code}, {error._content_type}")

    def _console(self) -> ConfigurationError:
        return ConfigurationError(
            f"MINIO_ENDPOINT={self._settings.endpoint} is the port of MinIO's console: "
            "give the port of its S3 API (9000 by default)"
        )

    def _no_s3(self, answer: str) -> ConfigurationError:
        return ConfigurationError(
            f"MINIO_ENDPOINT={self._settings.endpoint} does not answer as an S3 API does ({answer}): is the port right?"
        )


class _Missing(TransientFailure):
    """There is no such object, or upload: an answer to some who ask, a trouble to the others."""


class _NoBucket(ConfigurationError):
    """The bucket is missing."""


class _ConditionFailed(TransientFailure):
    """If-Match or If-None-Match did not hold: an answer to who has set one, a trouble to the others."""


def _trouble(message: str, *, away: bool = False) -> TransientFailure:
    return TransientFailure(message, dependency="minio", away=away)


def _no_bucket(bucket: str) -> _NoBucket:
    return _NoBucket(f"there is no bucket {bucket}: someone removed it; a restart of the service makes it again")


def _refused_targets(bucket: str, wanted: Sequence[tuple[str, Notification, str]], message: str) -> str:
    arns = ", ".join(arn for _, _, arn in wanted)
    targets = ", ".join(f"MINIO_NOTIFY_AMQP_{{ENABLE,URL,EXCHANGE,...}}_{n.target}" for _, n, _ in wanted)
    return (
        f"MinIO does not know {arns}, to which {bucket} has to send its events: MinIO itself needs {targets}, "
        f"and MINIO_NOTIFY_REGION here must equal its MINIO_REGION ({message})"
    )


def _notification_id(layer: Layer, notification: Notification) -> str:
    return f"acequia-{layer.value}" if notification.target == layer.value.upper() else f"acequia-{notification.target}"


def _queue_config(name: str, notification: Notification, arn: str) -> QueueConfig:
    suffix = SuffixFilterRule(notification.suffix) if notification.suffix else None
    return QueueConfig(arn, list(EVENTS), config_id=name, suffix_filter_rule=suffix)


def _meaning(config: QueueConfig) -> tuple[str, frozenset[str], str, str]:
    """What a notification does, without the order of its events. MinIO may drop the ARN's region."""
    suffix = config.suffix_filter_rule.value if config.suffix_filter_rule else ""
    prefix = config.prefix_filter_rule.value if config.prefix_filter_rule else ""
    parts = config.queue.split(":")
    arn = ":".join(part for at, part in enumerate(parts) if at != 3)
    return arn, frozenset(config.events), prefix, suffix


def _headers(metadata: Mapping[str, str], content_type: str) -> dict[str, str]:
    """ValueError where a value cannot travel in a header: that is a mistake of the caller's."""
    for name, value in metadata.items():
        if not (name.isascii() and value.isascii() and value.isprintable() and value == value.strip()):
            raise ValueError(f"user metadata has to be printable ASCII: {name!r}: {value!r}")
    return {"Content-Type": content_type} | {f"{_META}{name}": value for name, value in metadata.items()}


def _http_date(text: str | None) -> datetime:
    return parsedate_to_datetime(text).astimezone(UTC) if text else datetime.now(UTC)


async def _stream(response: aiohttp.ClientResponse, to: Path) -> int:
    """The body into the file, block by block; its size. Nothing stays behind where it breaks off."""
    if (response.content_length or _BLOCK) < _BLOCK:
        return await _write_whole(await response.read(), to)
    size = 0
    try:
        file = await asyncio.to_thread(to.open, "wb")
    except OSError as error:
        raise TransientFailure(f"{to}: {error}", dependency="disk") from error
    try:
        block = bytearray()
        async for chunk in response.content.iter_any():
            block += chunk
            if len(block) >= _BLOCK:
                size += await _write(file, block)
                block = bytearray()
        size += await _write(file, block)
        file.close()
    except BaseException:
        file.close()
        to.unlink(missing_ok=True)
        raise
    return size


async def _write_whole(body: bytes, to: Path) -> int:
    try:
        return await asyncio.to_thread(to.write_bytes, body)
    except BaseException as error:
        to.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise TransientFailure(f"{to}: {error}", dependency="disk") from error
        raise


async def _write(file: BinaryIO, block: bytearray) -> int:
    try:
        return await asyncio.to_thread(file.write, block)
    except OSError as error:
        raise TransientFailure(f"{file.name}: {error}", dependency="disk") from error


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Everything at once; the first error, once all have ended."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
