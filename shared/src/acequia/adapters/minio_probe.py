"""What only the doctor asks of a store: who answers at the address, by which clock, which targets it knows.

Each question leaves the store as it was. Errors carry what is wrong and, as `mend`, what to set or to run.
"""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from uuid import uuid4

import aiohttp
from miniopy_async.error import S3Error
from miniopy_async.notificationconfig import NotificationConfig, QueueConfig

from acequia.adapters.minio import MinioStore, _meaning, _notification_id, _queue_config
from acequia.errors import ConfigurationError, TransientFailure
from acequia.layers import Layer
from acequia.topology import Notification

_SECONDS = 5.0


class Standing(StrEnum):
    """How a bucket's notification stands."""

    RIGHT = "right"
    MISSING = "missing"
    OTHER = "other"
    """There is one of our name, and it says something else."""


class MinioProbe(MinioStore):
    """`async with await MinioProbe.open(settings, buckets) as probe: ...`"""

    async def reach(self) -> timedelta:
        """Ask without credentials who answers. How far the store's clock is ahead of ours, to about a second.

        TransientFailure where nobody answers, ConfigurationError where it is no S3 API, or TLS is wanted or not.
        """
        scheme = "https" if self._settings.secure else "http"
        try:
            async with (
                asyncio.timeout(_SECONDS),
                self._session.get(f"{scheme}://{self._settings.endpoint}/", allow_redirects=False) as answer,
            ):
                now = datetime.now(UTC)
                body = await answer.content.read(4096)
                headers = answer.headers
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConfigurationError(
                f"{self._server} shows a certificate that this machine does not trust: {error.certificate_error}",
                mend="set MINIO_CA_FILE=/path/to/ca.pem, the CA that signed it, or use the host "
                "name that the certificate is for in MINIO_ENDPOINT",
            ) from None
        except aiohttp.ClientConnectorSSLError:
            raise ConfigurationError(
                f"{self._server} does not speak TLS, and MINIO_SECURE=true asks for it", mend="set MINIO_SECURE=false"
            ) from None
        except aiohttp.ClientConnectorDNSError:
            raise TransientFailure(
                f"nobody knows the host of MINIO_ENDPOINT={self._settings.endpoint}", dependency="minio", away=True
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise TransientFailure(
                f"nothing listens at MINIO_ENDPOINT={self._settings.endpoint} "
                f"({os.strerror(error.os_error.errno or 0)})",
                dependency="minio",
                away=True,
            ) from None
        except TimeoutError:
            raise TransientFailure(
                f"MINIO_ENDPOINT={self._settings.endpoint} does not answer within {_SECONDS:g} s",
                dependency="minio",
                away=True,
            ) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise self._other_server(f"not HTTP: {error}") from None
        if "X-Amz-Request-Id" in headers:
            if answer.status >= 500:
                raise TransientFailure(f"{self._server} answers {answer.status}: it is starting", dependency="minio")
            date = headers.get("Date")
            return parsedate_to_datetime(date) - now.replace(microsecond=0) if date else timedelta()
        if b"HTTP request to an HTTPS server" in body:
            raise ConfigurationError(f"{self._server} wants TLS, and MINIO_SECURE=false", mend="set MINIO_SECURE=true")
        if "console" in headers.get("Server", "").lower() or b"MinIO Console" in body:
            raise ConfigurationError(
                f"MINIO_ENDPOINT={self._settings.endpoint} is the port of MinIO's console, not of its S3 API",
                mend="set MINIO_ENDPOINT to the port of the S3 API: 9000, if the server was given no other --address",
            )
        raise self._other_server(f"HTTP {answer.status}, Server: {headers.get('Server', 'not named')}")

    async def find_bucket(self, layer: Layer) -> bool:
        """Whether the layer's bucket is there. ConfigurationError where the store does not take our credentials."""
        bucket = self._buckets.of(layer)
        with self._edge(bucket, ""):
            async with asyncio.timeout(_SECONDS):
                return bool(await self._client.bucket_exists(bucket))

    async def standing(self, notification: Notification) -> Standing:
        """Whether the layer's bucket notifies as `notification` says. The bucket has to be there."""
        bucket = self._buckets.of(notification.layer)
        with self._edge(bucket, ""):
            async with asyncio.timeout(_SECONDS):
                there = await self._client.get_bucket_notification(bucket)
        name = _notification_id(notification.layer, notification)
        ours = [config for config in there.queue_config_list or () if config.config_id == name]
        if not ours:
            return Standing.MISSING
        wanted = _meaning(self._config(notification))
        return Standing.RIGHT if all(_meaning(config) == wanted for config in ours) else Standing.OTHER

    async def unknown_targets(self, notifications: Sequence[Notification]) -> list[str] | None:
        """ARNs that the server does not know, by setting each on a temporary bucket.

        None where we have no right to remove a bucket: then none is made.
        """
        bucket = f"{self._buckets.prefix}-doctor-{uuid4().hex[:8]}"
        with self._edge(bucket, ""):
            async with asyncio.timeout(_SECONDS):
                if not await self._may_remove(bucket):
                    return None
                await self._client.make_bucket(bucket)
                try:
                    return [
                        self._arn(n.target) for n in notifications if not await self._takes(bucket, self._config(n))
                    ]
                finally:
                    await self._client.remove_bucket(bucket)

    async def _may_remove(self, bucket: str) -> bool:
        """Asked by removing a bucket that is not there."""
        try:
            await self._client.remove_bucket(bucket)
        except S3Error as error:
            if error.code == "NoSuchBucket":
                return True
            if error.code == "AccessDenied":
                return False
            raise
        return True

    async def _takes(self, bucket: str, config: QueueConfig) -> bool:
        try:
            await self._client.set_bucket_notification(bucket, NotificationConfig(queue_config_list=[config]))
        except S3Error as error:
            if error.code != "InvalidArgument":
                raise
            return False
        return True

    def _config(self, notification: Notification) -> QueueConfig:
        name = _notification_id(notification.layer, notification)
        return _queue_config(name, notification, self._arn(notification.target))

    def _refusal(self, error: S3Error, bucket: str, key: str) -> Exception:
        headers = error.response.headers
        code = headers.get("X-Minio-Error-Code") or error.code or ""
        user, prefix = self._settings.access_key, self._buckets.prefix
        known = {
            "InvalidAccessKeyId": (
                f"{self._server} knows no user {user!r}",
                "set MINIO_ACCESS_KEY to a user of that server: its MINIO_ROOT_USER, or one made with "
                "`mc admin user add` (docs/minio.md)",
            ),
            "SignatureDoesNotMatch": (
                f"{self._server} knows the user {user!r}, and MINIO_SECRET_KEY is not its password",
                f"set MINIO_SECRET_KEY to the password of {user!r} on that server",
            ),
            "AccessDenied": (
                f"the user {user!r} has not the rights it needs on the bucket {bucket}",
                f"attach the policy deploy/minio/policy.json, written for the prefix {prefix}, to the user "
                f"(`mc admin policy attach`, docs/minio.md)",
            ),
            "AuthorizationHeaderMalformed": (
                f"{self._server} has another region than MINIO_REGION={self._settings.region}: {error.message}",
                "set MINIO_REGION, and MINIO_NOTIFY_REGION too, to the server's MINIO_REGION",
            ),
            "RequestTimeTooSkewed": (
                f"the clocks of this machine and of {self._server} differ too much",
                "let both set their clocks by NTP (`timedatectl set-ntp true`)",
            ),
        }
        if code in known and "X-Amz-Request-Id" in headers:
            said, mend = known[code]
            return ConfigurationError(said, mend=mend)
        return super()._refusal(error, bucket, key)

    def _other_server(self, answer: str) -> ConfigurationError:
        return ConfigurationError(
            f"MINIO_ENDPOINT={self._settings.endpoint} does not answer as an S3 API does ({answer})",
            mend="set MINIO_ENDPOINT to host:port of the store's S3 API (MinIO: port 9000 by default)",
        )
