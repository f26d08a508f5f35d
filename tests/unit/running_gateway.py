"""A gateway over real gRPC in the test's process; only the models behind the parts are fakes."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from services.common.channel import CLIENT_OPTIONS, SERVER_OPTIONS
from services.common.grpc_server import open_server
from services.common.interceptor import StatusInterceptor
from services.common.pair import Pair
from services.gateway.callers import Callers
from services.gateway.cluster_parts import Cluster
from services.gateway.http.routes import open_http
from services.gateway.http.server import HttpServer
from services.gateway.memory_store import MemoryStore
from services.gateway.service import ReasoningService
from services.gateway.settings import GatewaySettings
from tests.unit.fake_services import FakeServices
from tests.unit.fake_triton import serving

PAIR = Pair.load(Path("models/bundled.toml"))
Options = gateway_pb2.ReasonOptions
Code = grpc.StatusCode


def request(options: gateway_pb2.ReasonOptions | None = None, **changes: Any) -> gateway_pb2.ReasonRequest:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48)).save(buffer, "PNG")
    values = {"question": "what ?", "images": [common_pb2.Image(data=buffer.getvalue())], **changes}
    return gateway_pb2.ReasonRequest(options=options, **values)


@dataclass(slots=True)
class Gateway:
    """A running gateway: its client's stub, what is behind it, its store and where it is.

    Attributes:
        url: where OpenAI clients find it, with the setting `http`.
    """

    stub: "gateway_pb2_grpc.ReasoningServiceAsyncStub"
    parts: FakeServices
    store: MemoryStore
    service: ReasoningService
    address: str
    http: HttpServer | None = None
    url: str = ""

    async def reason(
        self, asked: gateway_pb2.ReasonRequest | None = None, timeout: float | None = 10, key: str = ""
    ) -> list[gateway_pb2.ReasonResponse]:
        """Everything that one session tells."""
        call = self.stub.Reason(asked or request(), timeout=timeout, metadata=bearing(key))
        return [response async for response in call]


async def let_go(store: MemoryStore, session_id: str) -> None:
    """Returns once nobody holds the session any more."""
    async with asyncio.timeout(5):
        while (stored := await store.load(session_id)) is None or stored.held:  # noqa: ASYNC110 - over a socket
            await asyncio.sleep(0.005)


def bearing(key: str) -> tuple[tuple[str, str], ...]:
    """The metadata that shows a key."""
    return (("authorization", f"Bearer {key}"),) if key else ()


Start = Callable[..., AbstractAsyncContextManager[Gateway]]


@asynccontextmanager
async def gateway(
    parts: FakeServices | None = None,
    *,
    store: MemoryStore | None = None,
    addresses: dict[str, str] | None = None,
    pair: Pair = PAIR,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    parts, store = parts or FakeServices(), store or MemoryStore(ttl_seconds=60)
    async with serving(parts.add_to) as behind:
        where = dict.fromkeys(("draft", "target", "verifier"), behind) | (addresses or {})
        cluster = Cluster.connect(where["draft"], where["target"], where["verifier"])
        configured = GatewaySettings(**settings)
        callers = Callers(configured.keys)
        service = ReasoningService(configured, pair, cluster, store, callers)

        def add(server: grpc.aio.Server) -> None:
            gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(service, server)

        interceptor = StatusInterceptor(callers.check)
        async with (
            serving(add, make=open_server, interceptors=[interceptor], options=SERVER_OPTIONS) as front,
            service.adopting(),
        ):
            options = [option for option in CLIENT_OPTIONS if option[0] != "grpc.max_send_message_length"]
            async with grpc.aio.insecure_channel(
                front, options=[*options, ("grpc.max_send_message_length", -1)]
            ) as channel:
                stub = gateway_pb2_grpc.ReasoningServiceStub(channel)
                running = Gateway(stub, parts, store, service, front)
                http = running.http = open_http(configured, pair, cluster, service)
                if http:
                    scheme = "https" if configured.tls else "http"
                    running.url = f"{scheme}://{await http.start(_serving)}"
                try:
                    yield running
                finally:
                    if http:
                        await http.stop(5)
        await interceptor.idle(5)
        assert service._reasoning._governor.sessions == 0, "the governor still counts a session"
        for replicas in (cluster.draft, cluster.target, cluster.verifier):
            assert not any(replica.calls for replica in replicas.order("")), "a call is still counted"
        await service.close()
        await cluster.close()
        await store.close()


def _serving() -> bool:
    return True


def commits(told: list[gateway_pb2.ReasonResponse]) -> list[gateway_pb2.Commit]:
    return [response.commit for response in told if response.HasField("commit")]


async def refused(
    running: Gateway, asked: gateway_pb2.ReasonRequest | None = None, key: str = ""
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.reason(asked, key=key)
    return caught.value
