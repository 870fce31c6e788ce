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
async def connect(where: Where) -> AsyncIterator[Connection]:
    """Talk to `where.url`, else to who serves the folder, else be the embedded installation.

    Raises ConfigurationError where another process that serves nothing owns the folder.
    """
    async with AsyncExitStack() as stack:
        if where.url:
            yield Connection(Api(await stack.enter_async_context(_http(where.url))), None, in_process=False)
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
