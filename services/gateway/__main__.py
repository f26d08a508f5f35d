"""`python -m services.gateway`"""

import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from dreamr.v1 import gateway_pb2_grpc
from services.common.pair import Pair
from services.common.server import Opened, run
from services.gateway.callers import Callers
from services.gateway.cluster_parts import Cluster
from services.gateway.http.routes import open_http
from services.gateway.memory_store import MemoryStore
from services.gateway.redis_store import RedisStore
from services.gateway.service import ReasoningService
from services.gateway.settings import GatewaySettings
from services.gateway.store import Store


def main() -> None:
    """Serves until told to stop."""
    settings = GatewaySettings.load(sys.argv[1:])
    callers = Callers(settings.keys)

    @asynccontextmanager
    async def open_service(server: grpc.aio.Server) -> AsyncIterator[Opened]:
        pair = Pair.load(settings.pair)
        store = _open_store(settings)
        cluster = Cluster.connect(
            settings.draft,
            settings.target,
            settings.verifier,
            settings.tls,
            resolve_seconds=settings.resolve_seconds,
        )

        async def probe() -> None:
            # Without draft or verifier the target reasons on alone; without a target there is nothing.
            cluster.target.check()

        service = ReasoningService(settings, pair, cluster, store, callers)
        try:
            gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(service, server)
            front = open_http(settings, pair, cluster, service)
            yield Opened(probe, service.drain, service.adopting, front)
        finally:
            await service.close()
            await cluster.close()
            await store.close()

    run(settings, "dreamr.v1.ReasoningService", open_service, callers.check)


def _open_store(settings: GatewaySettings) -> Store:
    """The sessions' store."""
    if not settings.redis:
        return MemoryStore(settings.session_ttl_seconds)
    seconds = max(settings.session_ttl_seconds, math.ceil(settings.max_call_seconds))
    if settings.redis_client == "asyncio-redis":
        from services.gateway.asyncio_redis_store import AsyncioRedisStore

        return AsyncioRedisStore(settings.redis, seconds)
    return RedisStore(settings.redis, seconds)


if __name__ == "__main__":
    main()
