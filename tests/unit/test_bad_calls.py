"""What no client of ours sends gets a status, at once, and ends nothing."""

import asyncio
import gzip
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bench.fuzz import wire
from bench.fuzz.cases import Call, Case, Raw
from bench.fuzz.send import Outcome, Sender
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from services.common import interceptor, logs, server
from services.common.channel import SERVER_OPTIONS
from services.common.errors import InvalidRequestError
from services.common.grpc_server import open_server
from services.common.health import Health
from services.common.interceptor import StatusInterceptor
from services.common.pair import ReasoningSettings
from services.common.settings import ServiceSettings
from services.common.validation import check_context

REASON, GET = "/dreamr.v1.ReasoningService/Reason", "/dreamr.v1.ReasoningService/GetSession"
CHECK = "/grpc.health.v1.Health/Check"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NOT_UTF8 = "/dreamr.\udcff/x"


class Ready(gateway_pb2_grpc.ReasoningServiceServicer):
    """Answers whatever it gets."""

    async def Reason(self, request: Any, context: Any) -> None:  # type: ignore[override]
        """See the proto."""
        await context.write(gateway_pb2.ReasonResponse())

    async def Resume(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """See the proto."""
        yield gateway_pb2.ResumeResponse()

    async def GetSession(self, request: Any, context: Any) -> Any:
        """See the proto."""
        return gateway_pb2.GetSessionResponse()

    async def Cancel(self, request: Any, context: Any) -> Any:
        """Not asked here."""


@asynccontextmanager
async def sending(*options: tuple[str, Any]) -> AsyncIterator[Sender]:
    """To a server as every service has it, but for these options."""
    changed = dict(options)
    kept = [option for option in SERVER_OPTIONS if option[0] not in changed]
    running = open_server([StatusInterceptor()], [*kept, *options], 8)
    gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(Ready(), running)
    health_pb2_grpc.add_HealthServicer_to_server(Health("dreamr.v1.ReasoningService"), running)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), running)
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    async with Sender({"gateway": f"127.0.0.1:{port}"}, None, None) as sender:
        yield sender
    await running.stop(None)


def case(sent: Call | Raw) -> Case:
    return Case(0, "", "gateway", "", sent, frozenset())


def framed(path: str, body: bytes, *headers: tuple[bytes, bytes], flags: int = wire.END_STREAM) -> Raw:
    named = [
        (name, path.encode(errors="surrogateescape") if name == b":path" else value)
        for name, value in wire.call_headers("", headers)
    ]
    return Raw((wire.opening() + wire.header_frames(named) + wire.data_frames(body, flags=flags),))


@pytest.mark.parametrize("path", [REASON, GET, "/dreamr.v1.ReasoningService/Resume", CHECK, REFLECT])
async def test_bytes_that_are_no_message_are_an_invalid_argument(path: str) -> None:
    async with sending() as sender:
        outcome = await sender.send(case(Call(path, b"\xff\xff\xff")))
    assert outcome.status == "INVALID_ARGUMENT"
    assert "request: Error parsing message" in outcome.detail


@pytest.mark.parametrize("path", [REASON, GET, CHECK])
async def test_a_call_without_a_message_is_answered(path: str) -> None:
    async with sending() as sender:
        assert await sender.send(case(framed(path, b""))) == Outcome(
            "INVALID_ARGUMENT", "request: is missing"
        )


@pytest.mark.parametrize("path", [REASON, GET])
async def test_a_request_is_not_waited_for_without_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interceptor, "REQUEST_SECONDS", 0.05)
    half = wire.message(b"", length=5)
    async with sending() as sender:
        outcome = await sender.send(case(framed(path, half, flags=0)))
    assert outcome == Outcome("DEADLINE_EXCEEDED", "request: is not there after 0.05 s")


async def test_a_path_that_is_no_text_ends_nothing() -> None:
    async with sending() as sender:
        for _ in range(2):
            assert (await sender.send(case(framed(NOT_UTF8, wire.message(b""))))).status == "UNIMPLEMENTED"
        assert (await sender.send(case(Call(GET, b"")))).status == "OK"


async def leave() -> None:
    """A connection that goes with some words."""
    going = wire.frame(wire.GOAWAY, 0, 0, bytes(7) + b"\x08" + b"\nFORGED\n")
    call = wire.header_frames(wire.call_headers(GET)) + wire.data_frames(wire.message(b""))
    async with sending() as sender:
        # The server has read so far once it hangs up.
        assert (await sender.send(case(Raw((wire.opening() + going + call,))))).status != "open"


def test_a_peer_writes_no_lines_of_the_log() -> None:
    """In a process of its own, as gRPC looks at its settings when it is imported."""
    program = "import services, asyncio; from tests.unit.test_bad_calls import leave; asyncio.run(leave())"
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "FORGED" not in ended.stderr


async def test_a_connection_that_says_nothing_is_closed() -> None:
    name = "grpc.server_handshake_timeout_ms"
    assert dict(SERVER_OPTIONS)[name] == 20_000
    async with sending((name, 100)) as sender:
        assert (await sender.send(case(Raw((b"",))))).status in ("goaway", "closed")


async def test_what_is_packed_is_not_unpacked() -> None:
    packed = wire.message(gzip.compress(b""), compressed=1)
    async with sending() as sender:
        outcome = await sender.send(case(framed(GET, packed, (b"grpc-encoding", b"gzip"))))
    assert outcome.status == "UNIMPLEMENTED"


async def test_a_service_whose_server_ends_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """gRPC's own server, which such a path ends, stands for whatever else may end it."""
    monkeypatch.setattr(
        server, "open_server", lambda interceptors, *_: grpc.aio.server(interceptors=interceptors)
    )

    @asynccontextmanager
    async def nothing(_: Any) -> AsyncIterator[server.Opened]:
        async def probe() -> None:
            """Always ready."""

        yield server.Opened(probe)

    settings = ServiceSettings(pair=Path("models/bundled.toml"))
    serving = asyncio.create_task(server._serve(settings, "dreamr.v1.ReasoningService", nothing))
    ready = ""
    async with asyncio.timeout(30):
        while not ready:  # what it says stands in no stream that could be awaited
            await asyncio.sleep(0.01)
            ready = capsys.readouterr().out
        async with Sender({"gateway": ready.split()[1]}, None, None) as sender:
            await sender.send(case(framed(NOT_UTF8, wire.message(b""))))
        with pytest.raises(RuntimeError, match="ended by itself"):
            await serving


def test_a_long_session_id_is_refused() -> None:
    context = common_pb2.Context(session_id="x" * 65, question="what ?")
    with pytest.raises(InvalidRequestError, match=r"context\.session_id: has more than 64 characters"):
        check_context(context, ReasoningSettings(min_images=0, max_images=1))


def test_a_log_has_of_a_session_id_what_is_one() -> None:
    def bound_to() -> str:
        logs.bind_session("\x1b[2J\n" + "x" * 1_000)
        return str(structlog.contextvars.get_contextvars()["session_id"])

    # Or every later test's logs would have it.
    bound = copy_context().run(bound_to)
    assert bound.startswith("\\x1b[2J\\nxx")
    assert len(bound) < 80


async def test_health_still_answers() -> None:
    async with sending() as sender:
        asked = health_pb2.HealthCheckRequest().SerializeToString()
        assert (await sender.send(case(Call(CHECK, asked)))).status == "OK"
