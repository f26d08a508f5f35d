"""What every service's server does around its handlers."""

import asyncio
from typing import Any

import grpc

from dreamr.v1 import gateway_pb2, gateway_pb2_grpc
from services.common.interceptor import StatusInterceptor


class Lingering(gateway_pb2_grpc.ReasoningServiceServicer):
    """Takes a while to tidy up when it is cancelled, as a session does that tells its store."""

    def __init__(self) -> None:
        self.tidied = False

    async def Reason(self, request: Any, context: Any) -> None:  # type: ignore[override]
        """See the proto."""
        try:
            await context.write(gateway_pb2.ReasonResponse())
            await asyncio.sleep(30)
        finally:
            await asyncio.shield(self._tidy())

    async def Resume(self, request: Any, context: Any) -> None:  # type: ignore[override]
        """Not asked here."""

    async def GetSession(self, request: Any, context: Any) -> Any:
        """Not asked here."""

    async def Cancel(self, request: Any, context: Any) -> Any:
        """Not asked here."""

    async def _tidy(self) -> None:
        await asyncio.sleep(0.1)
        self.tidied = True


async def test_a_server_that_stops_waits_for_the_last_word() -> None:
    interceptor, service = StatusInterceptor(), Lingering()
    server = grpc.aio.server(interceptors=[interceptor])
    gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = gateway_pb2_grpc.ReasoningServiceStub(channel).Reason(gateway_pb2.ReasonRequest())
        await call.read()
        await server.stop(0)
        await interceptor.idle(5)
        assert service.tidied
