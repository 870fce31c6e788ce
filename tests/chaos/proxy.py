"""A TCP proxy that fails on demand: it cuts connections, in the middle of a message too, and stalls."""

import asyncio
from contextlib import suppress
from random import Random

HOST = "127.0.0.1"
BLOCK = 1 << 16


class _Pair:
    """A client's connection and ours to the server, for as long as both are open."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.left: int | None = None
        """Bytes that still pass before it is cut."""

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens on a port of its own; what comes there goes to `target`, a local port."""

    def __init__(self, rng: Random) -> None:
        self.target = 0
        self.port = 0
        self._rng = rng
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut_all()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # what goes wrong

    def cut_all(self) -> int:
        """Cut every connection; how many there were."""
        for pair in list(self._pairs):
            pair.cut()
        return len(self._pairs)

    def cut_within(self, most: int) -> int:
        """Cut every connection of now somewhere within its next `most` bytes; how many there are."""
        for pair in self._pairs:
            pair.left = self._rng.randint(1, most)
        return len(self._pairs)

    async def stall(self, seconds: float) -> None:
        """Nothing passes for so long; connections stay."""
        self._flowing.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._flowing.set()

    # one connection

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            there, out = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, out)
        self._pairs.add(pair)
        flows = [asyncio.create_task(self._flow(pair, *way)) for way in ((reader, out), (there, writer))]
        try:
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            for end in pair.writers:
                end.close()  # what is written goes out before
            for flow in flows:
                flow.cancel()
            await asyncio.wait(flows)

    async def _flow(self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(BLOCK):
                await self._flowing.wait()
                if pair.left is not None and len(data) >= pair.left:
                    writer.write(data[: pair.left])
                    await asyncio.sleep(0)
                    pair.cut()
                    return
                if pair.left is not None:
                    pair.left -= len(data)
                writer.write(data)
                await writer.drain()
