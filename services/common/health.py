"""Health of services (grpc.health.v1): tells one's own, and asks for another's."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import UnavailableError

SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Serves `grpc.health.v1.Health` for one service.

    Not grpcio-health-checking's servicer: with that, one watcher that leaves takes the others' news with it,
    and watches that nobody ends make a server that drains wait out its whole grace.

    Attributes:
        serving: whether it does.
    """

    def __init__(self, service: str) -> None:
        self._names = ("", service)
        self.serving = True
        self._draining = False
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802 - the name is the standard's
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """How it is now."""
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:64]!r}")
        return self._response(request)

    async def Watch(  # noqa: N802 - the name is the standard's
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """How it is, at once and whenever that changes; ends when the server drains."""
        told = None
        while True:
            changed, now = self._changed, self._response(request)
            if now != told:
                yield now
                told = now
            # It may have changed while the last news was sent.
            if changed is self._changed:
                if self._draining:
                    return
                await changed.wait()

    def set(self, *, serving: bool) -> None:
        """Tells every watcher."""
        self.serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Does not serve from here on."""
        self._draining = True
        self.set(serving=False)

    def _response(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        status = SERVING if self.serving else _NOT_SERVING
        return health_pb2.HealthCheckResponse(status=status if request.service in self._names else _UNKNOWN)


async def probe_health(channel: grpc.aio.Channel, part: str, seconds: float = 2.0) -> None:
    """Returns when the service at the channel's other end serves.

    Raises:
        UnavailableError: it does not, or cannot be reached; names the part.
    """
    try:
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=seconds
        )
    except grpc.aio.AioRpcError as error:
        raise UnavailableError(f"{part}: {error.details() or error.code().name}") from error
    if reply.status != SERVING:
        raise UnavailableError(f"{part}: not serving")
