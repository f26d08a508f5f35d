"""A TCP proxy that can be told to misbehave."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

_PIECE = 1 << 16


class Proxy:
    """Forwards every connection to one address; use it as `async with`.

    Attributes:
        address: where it listens, once started.
    """

    def __init__(self, behind: str) -> None:
        self.address = ""
        self._host, _, port = behind.rpartition(":")
        self._port = int(port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._delay = 0.0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Closes all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def swallow(self, seconds: float) -> None:
        """A black hole for a while: connections stay open, and nothing comes through."""
        self._open.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._open.set()

    async def slow_down(self, delay: float, seconds: float) -> None:
        """Holds every piece up for `delay` seconds, for a while."""
        self._delay = delay
        try:
            await asyncio.sleep(seconds)
        finally:
            self._delay = 0.0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # Cancelled by the end of the proxy only, and then there is nobody to tell.
        with suppress(asyncio.CancelledError):
            await self._forward(reader, writer)
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            pair = {writer, far_writer}
            self._writers |= pair
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer))
                    group.create_task(self._pump(far_reader, writer))
            finally:
                self._writers -= pair
                far_writer.transport.abort()
                with suppress(OSError):
                    await far_writer.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction; its end closes both."""
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                await self._open.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()
