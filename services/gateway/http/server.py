"""uvicorn in the gateway's own event loop: connections, TLS, drain."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dreamr.tls import Tls
from services.common.credentials import server_context
from services.common.server import Serving
from services.gateway.http.front import HttpFront

_HEAD_SECONDS = 10.0
"""How long the head of a request may be on its way."""
_KEEP_SECONDS = 75
"""How long a connection without a request is kept; longer than clients do, who would ask into its end."""
_STUCK_MS = 60_000
"""After how long without progress the kernel gives a client up that does not read."""
_LAST_SECONDS = 3
"""Until connections are closed whose last words were sent."""


class HttpServer:
    """Serves a front at an address, port 0 for a free one.

    Args:
        tls: what is shown to clients.
        asks_clients: they must show a certificate too.
        most: connections at most.
    """

    name = "http"

    def __init__(
        self, front: HttpFront, address: str, tls: Tls | None = None, *, asks_clients: bool, most: int
    ) -> None:
        self._front = front
        self._address = address
        self._tls = tls
        self._asks_clients = asks_clients
        self._most = most
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, serving: Serving) -> str:
        """Begins to serve; the address. Raises OSError when it is taken, or what keeps uvicorn from it."""
        host, _, port = self._address.rpartition(":")
        listener = socket.create_server(
            (host.strip("[]"), int(port)),
            family=socket.AF_INET6 if host.startswith("[") else socket.AF_INET,
            backlog=1024,
        )
        # Connections have it from the socket that accepted them.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_MS)
        self._front.serving = serving
        context = server_context(self._tls, asks_clients=self._asks_clients) if self._tls else None
        config = uvicorn.Config(
            self._front,
            http=_protocol(self._most),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever calls says who called: nothing here goes by a client's address.
            proxy_headers=False,
            timeout_keep_alive=_KEEP_SECONDS,
            timeout_graceful_shutdown=_LAST_SECONDS,
            ssl_context_factory=(lambda config, default: context) if context else None,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]), name="http")
        begun = asyncio.create_task(self._server.begun.wait())
        await asyncio.wait({self._serving, begun}, return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            begun.cancel()
            listener.close()
            await self._serving
        return f"{host}:{listener.getsockname()[1]}"

    async def stop(self, seconds: float) -> None:
        """Takes no more requests; those that run have some seconds to end, and are told then."""
        assert self._server is not None
        assert self._serving is not None
        self._server.close_listeners()
        await self._front.drain(seconds)
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    """uvicorn's server; signals are the gateway's business."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()

    def close_listeners(self) -> None:
        """No more connections, and no more requests on those that are there."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()


def _protocol(most: int) -> type[H11Protocol]:
    class Protocol(H11Protocol):
        """A connection that must bring its requests' heads in time, and tells what its certificate names."""

        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
                return
            self.app_state = {"transport": transport, "roles": _roles(transport)}
            self._watch_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch_head()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._late:
                self._late.cancel()

        def _watch_head(self) -> None:
            waits = self.cycle is None or self.cycle.response_complete
            if waits and not self._late:
                self._late = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)
            elif not waits and self._late:
                self._late.cancel()
                self._late = None

    return Protocol


def _roles(transport: asyncio.Transport) -> tuple[str, ...]:
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    shown = connection.getpeercert() if connection else None
    names = shown.get("subjectAltName", ()) if shown else ()
    return tuple(str(name[1]) for name in names if name[0] == "DNS")
