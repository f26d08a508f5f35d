"""Replicas within the test's process: real gRPC servers that tell their health, with fakes of the models."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2_grpc

from services.common.channel import SERVER_OPTIONS
from services.common.health import Health
from services.common.interceptor import StatusInterceptor
from tests.unit.fake_services import FakeServices


@dataclass(slots=True)
class Worker:
    """One server, its health and what is behind it."""

    address: str
    server: grpc.aio.Server
    health: Health
    parts: FakeServices

    @property
    def drafts(self) -> int:
        """Drafts that it was asked for."""
        return len(self.parts.requests.get("Draft", []))


@asynccontextmanager
async def worker(address: str = "127.0.0.1:0", parts: FakeServices | None = None) -> AsyncIterator[Worker]:
    """A replica that serves; it listens before the body begins."""
    server = grpc.aio.server(interceptors=[StatusInterceptor()], options=SERVER_OPTIONS)
    health, parts = Health("part"), parts or FakeServices()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    parts.add_to(server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield Worker(f"{address.rsplit(':', 1)[0]}:{port}", server, health, parts)
    finally:
        await server.stop(None)
