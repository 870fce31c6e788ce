"""Whom a command talks to: a running installation over HTTP, or one that lives in this process as long as it does."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from acequia_cli.client import Api
from acequia_cli.complaints import WrongUse
from acequia_cli.owner import owner_url


@dataclass(frozen=True, slots=True)
class Where:
    """What the person named. A URL comes before a folder."""

    data: Path
    url: str | None = None
    environment: str | None = None
    """Of the settings file. Unless it is `local`, it says where Acequia is."""
    config: Path | None = None
    """The settings file."""
    store: str | None = None
    """The environment that names neither url nor folder: the command works by itself on the store of its settings."""

    def resolved(self) -> "Where":
        """With what the environment says, whose settings are this process's from here on. WrongUse as `resolve`."""
        if self.environment is None:
            return self
        from acequia_cli.profiles import resolve  # noqa: PLC0415 - it brings the settings of all services

        profile = resolve(self.environment, self.config)
        profile.take_effect()
        if profile.url or profile.store:
            return Where(self.data, profile.url, store=profile.name if profile.store else None)
        return Where(profile.data or self.data, None if profile.data else self.url)


@dataclass(frozen=True, slots=True)
class Connection:
    api: Api
    data: Path | None
    """The folder on this disk that the objects lie in; None where only the server knows."""
    in_process: bool
    """Whether the work stops when this command does."""

    def path(self, uri: str) -> Path | None:
        """Where the object lies on this disk."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.data / "store" / bucket / key if self.data and key and uri.startswith("s3://") else None


@asynccontextmanager
async def connect(where: Where, *, once: bool = False) -> AsyncIterator[Connection]:
    """Talk to `where.url`, else to who serves the folder, else be the embedded installation.

    `once`: where the environment names a store alone, be what loads tables over it; other commands are refused there.
    Raises ConfigurationError where another process that serves nothing owns the folder.
    """
    where = where.resolved()
    if where.store and not once:
        raise WrongUse(
            f"the environment {where.store!r} names a store that `acequia ingest tables` works on by itself; for this "
            "command it has to name a running installation (url) or a folder (data)"
        )
    async with AsyncExitStack() as stack:
        if where.url:
            yield Connection(Api(await stack.enter_async_context(_http(where.url))), None, in_process=False)
        elif where.store:
            from acequia_cli.one_shot import OneShot  # noqa: PLC0415 - it brings polars

            one_shot = await stack.enter_async_context(OneShot())
            client = await stack.enter_async_context(one_shot.client())
            yield Connection(Api(client), None, in_process=True)
        elif url := owner_url(where.data):
            yield Connection(Api(await stack.enter_async_context(_http(url))), where.data, in_process=False)
        else:
            from acequia_cli.embedded import Embedded  # noqa: PLC0415 - it brings polars and scikit-learn

            embedded = await stack.enter_async_context(Embedded(where.data))
            client = await stack.enter_async_context(embedded.client())
            yield Connection(Api(client), where.data, in_process=True)


def _http(url: str) -> httpx.AsyncClient:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise WrongUse(f"{url!r} is no URL: it starts with http:// or https://, for instance http://127.0.0.1:8000")
    return httpx.AsyncClient(base_url=url, timeout=30)
