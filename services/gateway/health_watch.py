"""Watches the health of one replica (grpc.health.v1 `Watch`)."""

import asyncio
import random
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds before a watch that broke off is taken up again; the second is how late a return is seen."""


async def watch_health(channel: grpc.aio.Channel, tell: Callable[[str], None]) -> None:
    """Tells the health of the service at the channel's other end, whenever it changes.

    A stream that is silent means all is well, since the channel's keepalive ends those of a replica that is
    frozen or cut off. Runs until cancelled, or until the service turns out to have no such method: it is then
    taken to be well (gRFC A17).

    Args:
        tell: hears why the service cannot be called now; an empty string when it can.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    pause = _FIRST_PAUSE
    while True:
        # Without a deadline: it lasts as long as the replica.
        call = stub.Watch(health_pb2.HealthCheckRequest())
        try:
            async for response in call:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    pause = _FIRST_PAUSE
                    tell("")
                else:
                    tell("not serving")
            tell("shutting down")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                tell("")
                return
            tell(error.details() or error.code().name)
        finally:
            call.cancel()
        # Many gateways watch: they must not all come back at once.
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE)
