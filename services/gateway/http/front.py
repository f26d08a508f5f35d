"""The HTTP front's routes, and what holds for each of them: who may call, bounds, errors, drain, metrics."""

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from services.common import metrics, tracing
from services.common.errors import STATUSES, OverloadedError, ServiceError, UnavailableError
from services.common.identity import check_roles
from services.common.server import LAST_WORDS_SECONDS, Serving
from services.gateway.entrance import Entrance
from services.gateway.http.exchange import ClientGoneError, Exchange
from services.gateway.http.http_error import HttpError
from services.gateway.settings import GatewaySettings
from services.gateway.shares import Shares

log = structlog.get_logger()

Behaviour = Callable[[Exchange], Awaitable[None]]
"""Answers a request, or raises ServiceError or HttpError."""

# What metrics say of statuses that the table of errors does not have.
_NAMES = {status.http: status.grpc.name for status in STATUSES.values()} | {
    HTTPStatus.OK: "OK",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RESOURCE_EXHAUSTED",
}


def _never() -> bool:
    return False


class HttpFront:
    """An ASGI application.

    Args:
        entrance: what holds for calls through all fronts together.
        routes: behaviours by method, path and the name that metrics have for them.
        files: what everybody may have who reaches the front.

    Attributes:
        serving: whether the gateway can do its work.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        entrance: Entrance,
        routes: dict[tuple[str, str, str], Behaviour],
        files: Sequence[Route] = (),
    ) -> None:
        self.serving: Serving = _never
        self._settings = settings
        self._entrance = entrance
        # Whatever they ask: a body that is on its way holds a call, too.
        self._shares = Shares(max(1, settings.max_calls // 2))
        self._hosts = {"localhost", *filter(None, settings.http_hosts.lower().split(","))}
        self._running: set[asyncio.Task[None]] = set()
        self._draining = False
        self._over = asyncio.Event()
        self._app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/health/live", self._live),
                *files,
                *(
                    Route(path, _Endpoint(self, name, behaviour, settings.max_call_seconds), methods=[method])
                    for (method, path, name), behaviour in routes.items()
                ),
            ],
            exception_handlers={HTTPException: _unknown},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app = self._app if self._is_meant(Headers(scope=scope).get("host", "")) else _elsewhere
        await app(scope, receive, send)

    async def drain(self, seconds: float) -> None:
        """Takes no more requests; those that still run after some seconds are told, and end."""
        self._draining = True
        for left in (seconds, LAST_WORDS_SECONDS):
            if self._running:
                await asyncio.wait(self._running, timeout=left)
            self._over.set()

    async def run(self, exchange: Exchange, behaviour: Behaviour) -> None:
        """Runs a behaviour until it ends, its client leaves, or it must go.

        Raises:
            ClientGoneError: the client has left.
            ServiceError: it was refused, or failed.
        """
        settings = self._settings
        if settings.tls_ca and not settings.keys:
            # Without keys a certificate says who calls, as it does over gRPC.
            check_roles("dreamr.v1.ReasoningService", exchange.roles)
        caller = self._entrance.callers.of(exchange.metadata)
        if self._draining:
            raise UnavailableError("this gateway is shutting down; ask another one")
        if len(self._running) >= settings.max_calls:
            raise OverloadedError(f"calls: the limit is {settings.max_calls} at once", 1.0)
        with self._shares.call(caller):
            await self._run(exchange, behaviour)

    async def _run(self, exchange: Exchange, behaviour: Behaviour) -> None:
        working = asyncio.ensure_future(behaviour(exchange))
        leaving = asyncio.create_task(exchange.gone())
        ending = asyncio.create_task(self._over.wait())
        tasks = {working, leaving, ending, asyncio.create_task(exchange.beat())}
        self._running.add(working)
        try:
            await asyncio.wait({working, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
            elif leaving.done():
                raise ClientGoneError
            else:
                raise UnavailableError("this gateway is shutting down")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._running.discard(working)

    def _is_meant(self, host: str) -> bool:
        """Whether a request is for this gateway. A web page may let its own name point here, and then ask as
        this machine's user; keys and certificates are out of its reach."""
        if self._settings.keys or self._settings.tls:
            return True
        name = re.sub(r":\d*$", "", host).lower()
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self._hosts
        return True

    async def _health(self, _: Request) -> Response:
        """Whether the gateway can do its work: for load balancers."""
        ready = not self._draining and self.serving()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return JSONResponse({"status": "serving" if ready else "not serving"}, status)

    async def _live(self, _: Request) -> Response:
        """Whether the process answers at all: for who would restart it."""
        return JSONResponse({"status": "alive"})


class _Endpoint:
    """A behaviour as an ASGI application: counted, with its errors told in OpenAI's shape."""

    def __init__(self, front: HttpFront, name: str, behaviour: Behaviour, seconds: float) -> None:
        self._front = front
        self._name = name
        self._seconds = seconds
        self._behaviour = behaviour

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        exchange = Exchange(scope, receive, send, self._seconds)
        began = time.perf_counter()
        status = "CANCELLED"
        try:
            with metrics.ACTIVE_CALLS.labels(self._name).track_inprogress():
                status = await self._answer(exchange)
        finally:
            metrics.CALL_SECONDS.labels(self._name).observe(time.perf_counter() - began)
            metrics.CALLS.labels(self._name, status).inc()

    async def _traced(self, exchange: Exchange) -> None:
        """Who may not call at all has no span, as over gRPC."""
        with tracing.server_span(f"HTTP {self._name}", exchange.metadata) as span:
            try:
                await self._behaviour(exchange)
            except HttpError as problem:
                span.close(problem, refused=problem.status < HTTPStatus.INTERNAL_SERVER_ERROR)
                raise

    async def _answer(self, exchange: Exchange) -> str:
        """The status for metrics."""
        try:
            await self._front.run(exchange, self._traced)
        except ClientGoneError:
            return "CANCELLED"
        except HttpError as found:
            problem = found
        except ServiceError as error:
            problem = HttpError.of(error)
        except Exception as error:
            log.error("call failed", method=self._name, exc_info=error)
            problem = HttpError(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see the service's log", code="internal"
            )
        else:
            return "OK"
        status = _NAMES.get(problem.status, "INVALID_ARGUMENT")
        log.info("call refused", method=self._name, status=status, reason=str(problem))
        try:
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await exchange.fail(problem)
        except TimeoutError:
            # It does not read; closing would wait for it to.
            exchange.abort()
        return status


async def _elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
    """The request is for another host."""
    problem = HttpError(HTTPStatus.MISDIRECTED_REQUEST, "host: is not one of this gateway's (http_hosts)")
    await JSONResponse(problem.body(), problem.status)(scope, receive, send)


async def _unknown(_: Request, error: Exception) -> Response:
    """No such path, or no such method there."""
    assert isinstance(error, HTTPException)
    problem = HttpError(HTTPStatus(error.status_code), error.detail)
    return JSONResponse(problem.body(), problem.status, error.headers)
