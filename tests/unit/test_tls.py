"""TLS between real gRPC servers and channels: who gets through the handshake, and who may call what."""

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import dreamr
from dreamr.tls import ROLES, Tls
from dreamr.v1 import (
    draft_pb2,
    draft_pb2_grpc,
    gateway_pb2,
    gateway_pb2_grpc,
    target_pb2,
    target_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from services.common.channel import CLIENT_OPTIONS, open_channel
from services.common.credentials import server_credentials
from services.common.errors import BrokenError, from_rpc
from services.common.identity import check_caller
from services.common.interceptor import StatusInterceptor
from services.common.server import Opened, _serve
from services.draft.settings import DraftSettings
from services.gateway.cluster_parts import Cluster
from tests.unit.fake_services import FakeServices
from tests.unit.fake_triton import serving
from tests.unit.issued import issued

SERVING = health_pb2.HealthCheckResponse.SERVING


class Parts(FakeServices, gateway_pb2_grpc.ReasoningServiceServicer):
    """All four services on one server."""

    async def Reason(self, request: Any, context: Any) -> None:  # type: ignore[override]
        """See the proto."""
        with self._call("Reason", request, context):
            finished = gateway_pb2.Finished(answer="42", reason=gateway_pb2.FINISH_REASON_STOP)
            await context.write(
                gateway_pb2.ReasonResponse(started=gateway_pb2.Started(session_id="s", policy="fpsr"))
            )
            await context.write(gateway_pb2.ReasonResponse(finished=finished))

    async def Resume(self, request: Any, context: Any) -> None:  # type: ignore[override]
        """Not asked here."""

    async def GetSession(self, request: Any, context: Any) -> Any:
        """Not asked here."""

    async def Cancel(self, request: Any, context: Any) -> Any:
        """Not asked here."""

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the services, and one for health."""
        super().add_to(server)
        gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(self, server)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)


@asynccontextmanager
async def serving_tls(tls: Tls) -> AsyncIterator[tuple[Parts, str]]:
    """A server with the role's files, and its address."""
    parts = Parts()
    interceptor = StatusInterceptor(check_caller) if tls.ca else StatusInterceptor()
    async with serving(
        parts.add_to, credentials=server_credentials(tls), interceptors=[interceptor]
    ) as address:
        yield parts, address


async def draft(channel: grpc.aio.Channel) -> None:
    stub: draft_pb2_grpc.DraftServiceAsyncStub = draft_pb2_grpc.DraftServiceStub(channel)
    await stub.Draft(draft_pb2.DraftRequest(max_steps=1), timeout=5).read()


async def generate(channel: grpc.aio.Channel) -> None:
    stub: target_pb2_grpc.TargetServiceAsyncStub = target_pb2_grpc.TargetServiceStub(channel)
    await stub.Generate(target_pb2.GenerateRequest(max_steps=1), timeout=5).read()


async def answer(channel: grpc.aio.Channel) -> None:
    stub: target_pb2_grpc.TargetServiceAsyncStub = target_pb2_grpc.TargetServiceStub(channel)
    await stub.Answer(target_pb2.AnswerRequest(), timeout=5)


async def verify(channel: grpc.aio.Channel) -> None:
    stub: verifier_pb2_grpc.VerifierServiceAsyncStub = verifier_pb2_grpc.VerifierServiceStub(channel)
    await stub.Verify(verifier_pb2.VerifyRequest(), timeout=5)


async def reason(channel: grpc.aio.Channel) -> None:
    stub: gateway_pb2_grpc.ReasoningServiceAsyncStub = gateway_pb2_grpc.ReasoningServiceStub(channel)
    await stub.Reason(gateway_pb2.ReasonRequest(), timeout=5).read()


Call = Callable[[grpc.aio.Channel], Awaitable[None]]

MAY: dict[Call, tuple[str, set[str]]] = {
    draft: ("draft", {"gateway"}),
    generate: ("target", {"gateway", "verifier"}),
    answer: ("target", {"gateway", "verifier"}),
    verify: ("verifier", {"gateway"}),
    reason: ("gateway", {"client", "gateway"}),
}
"""Which service has the method, and who may call it."""


async def status(call: Call, channel: grpc.aio.Channel) -> grpc.StatusCode:
    try:
        await call(channel)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def check_health(channel: grpc.aio.Channel) -> None:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert reply.status == SERVING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return issued(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for the same roles, by another CA."""
    return issued(tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize("call", MAY)
async def test_only_the_roles_that_may_reach_a_handler(folder: Path, call: Call) -> None:
    service, may = MAY[call]
    async with serving_tls(Tls.of(folder, service)) as (parts, address):
        for role in ROLES:
            async with open_channel(address, service, Tls.of(folder, role)) as channel:
                expected = grpc.StatusCode.OK if role in may else grpc.StatusCode.PERMISSION_DENIED
                assert await status(call, channel) is expected, role
                # Whoever watches the cluster can ask how it is.
                await check_health(channel)
        assert parts.calls == len(may), "others are refused before the handler runs"


async def test_a_refusal_names_both_sides(folder: Path) -> None:
    async with (
        serving_tls(Tls.of(folder, "target")) as (_, address),
        open_channel(address, "target", Tls.of(folder, "draft")) as channel,
    ):
        with pytest.raises(
            grpc.aio.AioRpcError, match=r"may be called by gateway, verifier, not by draft"
        ) as e:
            await generate(channel)
    # To the client of a service that is refused by another one, that is not its own lack of rights.
    assert isinstance(from_rpc(e.value, "target"), BrokenError)


async def test_the_handshake_keeps_strangers_out(folder: Path, foreign: Path) -> None:
    ca = folder / "ca.pem"
    strangers = {
        "no certificate": Tls(ca),
        "a foreign certificate": Tls(ca, foreign / "gateway.pem", foreign / "gateway-key.pem"),
        "a foreign CA": Tls.of(foreign, "gateway"),
        "plaintext": None,
    }
    async with serving_tls(Tls.of(folder, "draft")) as (parts, address):
        for what, tls in strangers.items():
            async with open_channel(address, "draft", tls) as channel:
                assert await status(draft, channel) is grpc.StatusCode.UNAVAILABLE, what
                assert await status(check_health, channel) is grpc.StatusCode.UNAVAILABLE, what
        assert parts.calls == 0


async def test_a_server_of_another_role_is_not_talked_to(folder: Path) -> None:
    async with (
        serving_tls(Tls.of(folder, "draft")) as (parts, address),
        open_channel(address, "target", Tls.of(folder, "gateway")) as channel,
    ):
        assert await status(generate, channel) is grpc.StatusCode.UNAVAILABLE
        assert parts.calls == 0


async def test_a_client_cannot_serve(folder: Path) -> None:
    async with (
        serving_tls(Tls.of(folder, "client")) as (parts, address),
        open_channel(address, "client", Tls.of(folder, "gateway")) as channel,
    ):
        assert await status(reason, channel) is grpc.StatusCode.UNAVAILABLE
        assert parts.calls == 0


async def test_without_a_ca_callers_need_no_certificate(folder: Path) -> None:
    own = Tls.of(folder, "gateway")
    async with serving_tls(Tls(cert=own.cert, key=own.key)) as (_, address):
        async with Tls(folder / "ca.pem").open_channel(address, "gateway", CLIENT_OPTIONS) as channel:
            assert await status(reason, channel) is grpc.StatusCode.OK
        async with open_channel(address) as channel:
            assert await status(reason, channel) is grpc.StatusCode.UNAVAILABLE


async def test_the_gateway_reaches_every_part(folder: Path) -> None:
    async with (
        serving_tls(Tls.of(folder, "draft")) as (_, drafts),
        serving_tls(Tls.of(folder, "target")) as (_, target),
        serving_tls(Tls.of(folder, "verifier")) as (_, verifier),
    ):
        cluster = Cluster.connect(drafts, target, verifier, Tls.of(folder, "gateway"))
        for replicas, call in ((cluster.draft, draft), (cluster.target, answer), (cluster.verifier, verify)):
            assert await status(call, replicas.channels[0]) is grpc.StatusCode.OK
        await cluster.close()


async def test_the_client_shows_its_certificate(folder: Path, foreign: Path) -> None:
    async with serving_tls(Tls.of(folder, "gateway")) as (_, address):
        async with dreamr.AsyncClient(address, tls=Tls.of(folder)) as client:
            assert (await client.ask("q")).answer == "42"
        async with dreamr.AsyncClient(address, tls=Tls.of(folder, "draft")) as client:
            with pytest.raises(dreamr.ForbiddenError, match="not by draft"):
                await client.ask("q")
        for stranger in (Tls.of(foreign), None):
            async with dreamr.AsyncClient(address, tls=stranger) as client:
                with pytest.raises(dreamr.UnavailableError):
                    await client.ask("q")


async def test_the_command_line_shows_the_clients_certificate(folder: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"x")
    async with serving_tls(Tls.of(folder, "gateway")) as (_, address):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from dreamr.cli import main; main()", "ask", str(image), "q"),
            *("--address", address, "--tls", str(folder), "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await asyncio.wait_for(process.communicate(), 30)
    assert json.loads(told)["answer"] == "42"


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path, foreign: Path) -> None:
    own = issued(tmp_path)
    cert, key = own / "draft.pem", own / "draft-key.pem"
    async with serving_tls(Tls.of(own, "draft")) as (_, address):

        async def shown() -> str:
            host, port = address.split(":")
            return await asyncio.to_thread(ssl.get_server_certificate, (host, int(port)), timeout=5)

        first = await shown()
        assert first == cert.read_text()
        issued(own, "--force")
        second = await shown()
        assert second == cert.read_text() != first
        cert.write_bytes((foreign / "draft.pem").read_bytes())
        assert await shown() == second, "half a renewal counts for nothing"
        key.unlink()
        assert await shown() == second, "nor does a file that is away"
        key.write_bytes((foreign / "draft-key.pem").read_bytes())
        assert await shown() == cert.read_text() != second


async def test_callers_are_verified_by_the_ca_that_is_there_now(
    folder: Path, foreign: Path, tmp_path: Path
) -> None:
    callers = tmp_path / "callers.pem"
    callers.write_bytes((folder / "ca.pem").read_bytes())
    own, other = Tls.of(folder, "gateway"), replace(Tls.of(foreign, "gateway"), ca=folder / "ca.pem")

    async def seen(tls: Tls) -> grpc.StatusCode:
        async with open_channel(address, "draft", tls) as channel:
            return await status(draft, channel)

    async with serving_tls(replace(Tls.of(folder, "draft"), ca=callers)) as (_, address):
        assert await seen(own) is grpc.StatusCode.OK
        assert await seen(other) is grpc.StatusCode.UNAVAILABLE
        callers.write_bytes((folder / "ca.pem").read_bytes() + (foreign / "ca.pem").read_bytes())
        assert await seen(own) is await seen(other) is grpc.StatusCode.OK
        callers.write_bytes((foreign / "ca.pem").read_bytes())
        assert await seen(own) is grpc.StatusCode.UNAVAILABLE
        assert await seen(other) is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"cert": "draft.pem"}, "tls_key: is missing, and tls_cert is set"),
        ({"key": "draft-key.pem"}, "tls_cert: is missing, and tls_key is set"),
        ({"ca": "ca.pem"}, "tls_cert: is missing, and tls_ca is set"),
        ({"cert": "nowhere.pem", "key": "draft-key.pem"}, "tls_cert: cannot read"),
        ({"cert": "draft.pem", "key": "nowhere.pem"}, "tls_key: cannot read"),
        ({"cert": "draft-key.pem", "key": "draft-key.pem"}, "holds no PEM certificate"),
        ({"cert": "draft.pem", "key": "target-key.pem"}, "is not the private key of"),
        ({"cert": "draft.pem", "key": "ca.pem"}, "is not the private key of"),
        ({"cert": "draft.pem", "key": "draft-key.pem", "ca": "ca-key.pem"}, "tls_ca:"),
    ],
)
def test_half_a_configuration_is_refused(
    folder: Path, files: dict[str, str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        DraftSettings.load([f"--tls-{name}={folder / file}" for name, file in files.items()])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("settings: tls_")
    assert problem in told


def test_an_encrypted_key_is_refused_and_not_asked_for(folder: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    own = Tls.of(folder, "draft")
    assert own.key
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(dreamr.TlsError, match="is not the private key"):
        Tls(own.ca, own.cert, locked).read()


def test_a_client_without_a_ca_is_told() -> None:
    with pytest.raises(dreamr.TlsError, match="tls_ca: is missing"):
        dreamr.AsyncClient("127.0.0.1:1", tls=Tls())


async def test_a_service_serves_tls_by_its_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    for name, file in (("CERT", "draft.pem"), ("KEY", "draft-key.pem"), ("CA", "ca.pem")):
        monkeypatch.setenv(f"DREAMR_DRAFT_TLS_{name}", str(folder / file))
    settings = DraftSettings.load([f"--listen={address}"])

    @asynccontextmanager
    async def open_service(server: grpc.aio.Server) -> AsyncIterator[Opened]:
        Parts().add_to(server)

        async def probe() -> None:
            pass

        yield Opened(probe)

    running = asyncio.create_task(_serve(settings, "dreamr.v1.DraftService", open_service))
    async with open_channel(address, "draft", Tls.of(folder, "gateway")) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True
        )
        assert await status(draft, channel) is grpc.StatusCode.OK
    async with open_channel(address, "draft", Tls.of(folder, "target")) as channel:
        assert await status(draft, channel) is grpc.StatusCode.PERMISSION_DENIED
    os.kill(os.getpid(), signal.SIGTERM)
    await running
