"""Start-up, health and drain, the same for every service."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import grpc
import prometheus_client
import structlog
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import logs
from services.common.channel import SERVER_OPTIONS
from services.common.credentials import server_credentials
from services.common.errors import OverloadedError
from services.common.grpc_server import open_server
from services.common.health import Health
from services.common.identity import check_caller
from services.common.interceptor import MAX_WATCHERS, Check, StatusInterceptor
from services.common.loop_lag import watched_loop
from services.common.settings import ServiceSettings

log = structlog.get_logger()

Probe = Callable[[], Awaitable[None]]
"""Returns when the service can do its work, raises when it cannot."""

Serving = Callable[[], bool]
"""Whether the service can do its work, as its health says."""


class Front(Protocol):
    """A further way in, beside gRPC."""

    name: str

    async def start(self, serving: Serving) -> str:
        """Begins to serve; the address."""

    async def stop(self, seconds: float) -> None:
        """Takes no more requests; those that run have some seconds to end."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A service that was added to its server.

    Attributes:
        drain: told that the server is about to stop, while calls still run.
        alongside: what it does by itself while it serves.
        front: served while gRPC is.
    """

    probe: Probe
    drain: Callable[[], None] = lambda: None
    alongside: Callable[[], AbstractAsyncContextManager[None]] = contextlib.nullcontext
    front: Front | None = None


Open = Callable[[grpc.aio.Server], AbstractAsyncContextManager[Opened]]
"""Adds the service to the server, and closes what it opened."""

LAST_WORDS_SECONDS = 3.0

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def run(settings: ServiceSettings, service: str, open_service: Open, *checks: Check) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Args:
        service: full name, such as `dreamr.v1.DraftService`.
        checks: see StatusInterceptor.

    Exits with 1 when the service cannot start.
    """
    logs.configure(service.rsplit(".", 1)[-1], settings.log_format, settings.log_level)
    runner = uvloop.run if settings.loop == "uvloop" else asyncio.run
    try:
        runner(_serve_traced(settings, service, open_service, *checks))
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        log.error("cannot start", reason=str(error) or type(error).__name__)
        raise SystemExit(1) from error


async def _serve_traced(settings: ServiceSettings, service: str, open_service: Open, *checks: Check) -> None:
    asyncio.get_running_loop().set_exception_handler(logs.event_loop_error)
    if not settings.otlp:
        return await _serve(settings, service, open_service, *checks)
    # Only here, so that what is not used need not be installed.
    from services.common.collector import collected

    async with collected(settings.otlp, service.rsplit(".", 1)[-1], settings.trace_share):
        return await _serve(settings, service, open_service, *checks)


async def _serve(settings: ServiceSettings, service: str, open_service: Open, *checks: Check) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if settings.tls_ca:
        checks = (check_caller, *checks)
    interceptor = StatusInterceptor(*checks)
    server = open_server([interceptor], SERVER_OPTIONS, settings.max_calls + MAX_WATCHERS)
    health = Health(service)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((service, _HEALTH, reflection.SERVICE_NAME), server)
    async with open_service(server) as opened:
        probe = opened.probe
        if not await _first_probe(probe, settings, stop):
            return
        host = settings.listen.rsplit(":", 1)[0]
        port = (
            server.add_secure_port(settings.listen, server_credentials(settings.tls))
            if settings.tls
            else server.add_insecure_port(settings.listen)
        )
        await server.start()

        front = opened.front
        further = {front.name: await front.start(lambda: health.serving)} if front else {}
        with _metrics_endpoint(settings) as metrics_address:
            where = {"metrics": metrics_address, **further}
            words = " ".join(f"{name} {address}" for name, address in where.items())
            sys.stdout.write(f"ready {host}:{port} {words}\n")
            sys.stdout.flush()
            log.info("serving", address=f"{host}:{port}", **where)
            ended = asyncio.ensure_future(server.wait_for_termination())
            ended.add_done_callback(lambda _: stop.set())
            async with _watched(probe, health, settings), watched_loop(), opened.alongside():
                await stop.wait()
            if ended.done():
                # A process that serves nobody would look alive for ever.
                raise RuntimeError("gRPC's server ended by itself") from ended.exception()
            log.info("draining", seconds=settings.drain_seconds)
            health.drain()
            opened.drain()
            stopping = [server.stop(settings.drain_seconds)]
            if front:
                stopping.append(front.stop(settings.drain_seconds))
            await asyncio.gather(*stopping)
            await ended
            # What was cancelled still has its last word with the store.
            await interceptor.idle(LAST_WORDS_SECONDS)


async def _first_probe(probe: Probe, settings: ServiceSettings, stop: asyncio.Event) -> bool:
    """Waits until the service can work; false when it is told to stop first.

    Raises:
        TimeoutError: what is needed did not come up in time; names the last problem.
    """
    deadline = asyncio.get_running_loop().time() + settings.startup_seconds
    while True:
        try:
            async with asyncio.timeout(settings.probe_seconds):
                await probe()
        except Exception as error:
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"not ready in {settings.startup_seconds:g} s: {error}") from error
        else:
            return True
        # Nothing announces that a server elsewhere has come up: it has to be asked again.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.1)
            return False


@contextlib.asynccontextmanager
async def _watched(probe: Probe, health: Health, settings: ServiceSettings) -> AsyncIterator[None]:
    """Keeps the health service true while the body runs."""

    async def watch() -> None:
        healthy = True
        while True:
            await asyncio.sleep(settings.probe_seconds)
            try:
                async with asyncio.timeout(settings.probe_seconds):
                    await probe()
                now = True
            except OverloadedError:
                now = True  # busy is not dead
            except Exception as error:  # noqa: BLE001 - whatever it is, it is why we are not healthy
                now = False
                if healthy:
                    log.warning("not healthy", reason=str(error) or type(error).__name__)
            if now != healthy:
                healthy = now
                health.set(serving=now)

    task = asyncio.create_task(watch(), name="health")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextlib.contextmanager
def _metrics_endpoint(settings: ServiceSettings) -> Iterator[str]:
    host, port = settings.metrics.rsplit(":", 1)
    # A third of all series, which say when their counters were made.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    server, thread = prometheus_client.start_http_server(int(port), host)
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
