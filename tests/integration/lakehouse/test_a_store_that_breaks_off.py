"""What is read from MinIO is what lies there, or an error, wherever in an answer the connection ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.io import load_file_io

from acequia.adapters.minio import MinioStore
from acequia.layers import Buckets, Layer
from acequia.topology import topology
from acequia_lakehouse.catalog import Place

KEY = "network_events/date=2026-11-01/network_events_20261101_120000_0000000000000001_0001.v1-3fa9c1.parquet"
CONTENT = bytes(range(256)) * 40
IN_THE_HEADERS = 30
"""Bytes of an answer: its first line, and nothing yet of how long it is."""


class Breaking:
    """Between a client and MinIO. The next `times` answers to `method` end after so many bytes."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.method, self.after, self.times = "", 0, 0
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        answers, requests = await asyncio.open_connection(*self._target)
        try:
            with suppress(OSError):
                await self._pass_on(reader, writer, answers, requests)
        finally:
            for end in (requests, writer):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()
            del self._open[task]

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        while asked := await reader.read(1 << 16):
            requests.write(asked)
            if asked.startswith(f"{self.method} ".encode()) and self.times:
                self.times -= 1
                writer.write((await answers.read(1 << 16))[: self.after])
                return
            head = await answers.readuntil(b"\r\n\r\n")
            writer.write(head)
            if not asked.startswith(b"HEAD "):
                size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                writer.write(await answers.readexactly(int(size.partition(b":")[2])))

    async def end(self) -> None:
        tasks = dict(self._open)
        for writer in tasks.values():
            writer.transport.abort()
        await asyncio.gather(*tasks)


@pytest.fixture
async def between(stack: Any) -> AsyncIterator[tuple[Breaking, str]]:
    host, _, port = stack.minio.endpoint.partition(":")
    breaking = Breaking(host, int(port))
    async with await asyncio.start_server(breaking.serve, "127.0.0.1", 0) as server:
        yield breaking, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await breaking.end()


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("after", [0, IN_THE_HEADERS, 2000])
async def test_a_read_gives_what_is_there_or_an_error(
    stack: Any, between: tuple[Breaking, str], fresh_prefix: str, tmp_path: Path, method: str, times: int, after: int
) -> None:
    breaking, endpoint = between
    buckets = Buckets(fresh_prefix)
    (tmp_path / "content").write_bytes(CONTENT)
    store = await MinioStore.open(stack.minio, buckets)
    try:
        await store.apply(topology(buckets))
        await store.put(Layer.SILVER, KEY, tmp_path / "content", metadata={}, content_type="")
    finally:
        await store.close()
    place = Place.on_server(stack.minio.model_copy(update={"endpoint": endpoint}), buckets)
    files = load_file_io(dict(place.properties), place.warehouse)
    location = place.location(Layer.SILVER, KEY)

    def read() -> bytes:
        with files.new_input(location).open() as stream:
            return stream.read()

    assert await asyncio.to_thread(read) == CONTENT
    breaking.method, breaking.after, breaking.times = method, after, times
    try:
        found = await asyncio.to_thread(read)
    except OSError:
        assert times > 1 or method == "GET"
    else:
        # nobody can say of a file that it is not empty where no answer ever says how long it is
        assert found == (b"" if (method, times, after) == ("HEAD", 100, IN_THE_HEADERS) else CONTENT)
    breaking.times = 0
    assert await asyncio.to_thread(read) == CONTENT
