"""Asks another service for its health (grpc.health.v1)."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import UnavailableError


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
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"{part}: not serving")
