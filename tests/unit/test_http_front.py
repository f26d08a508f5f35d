"""The HTTP front's bounds: sizes, time, clients that hang or hang up, drain, TLS, health."""

import asyncio
import json
import socket
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from prometheus_client import REGISTRY

from dreamr.keys import KeyFile
from services.common.channel import MAX_MESSAGE_BYTES
from services.gateway.http import exchange, server
from services.gateway.http.front import HttpFront
from services.gateway.settings import GatewaySettings
from tests.unit.asking import question
from tests.unit.fake_services import FakeServices, busy, idle
from tests.unit.issued import issued
from tests.unit.running_gateway import Gateway, gateway

PATH = "/v1/chat/completions"


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "dreamr", "messages": question(), **changes}).encode()


def asking(field: bytes) -> bytes:
    """A request with a field as it is written."""
    return b'{"model": "dreamr", "messages": [{"role": "user", "content": "x"}], ' + field + b"}"


@asynccontextmanager
async def front(
    parts: FakeServices | None = None, **settings: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Gateway]]:
    async with (
        gateway(parts, http="127.0.0.1:0", **settings) as running,
        httpx2.AsyncClient(
            base_url=running.url, timeout=20, headers={"content-type": "application/json"}
        ) as client,
    ):
        yield client, running


def front_of(running: Gateway) -> HttpFront:
    """A front without routes."""
    return HttpFront(GatewaySettings(), running.service.entrance, {})


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def connected(running: Gateway, **options: int) -> socket.socket:
    """A connection of one's own; waits on it go by the loop."""
    host, port = running.url.rpartition("/")[2].split(":")
    client = socket.socket()
    client.setblocking(False)
    for name, value in options.items():
        client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    await asyncio.get_running_loop().sock_connect(client, (host, int(port)))
    return client


async def sent(client: socket.socket, text: str, content: bytes = b"") -> None:
    await asyncio.get_running_loop().sock_sendall(client, text.encode() + content)


async def read_to_end(client: socket.socket) -> bytes:
    """All until the other side hangs up, politely or not."""
    found = b""
    try:
        while piece := await asyncio.get_running_loop().sock_recv(client, 65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def head(content: bytes, **headers: str) -> str:
    lines = [f"POST {PATH} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json"]
    lines += [f"content-length: {len(content)}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""])


async def test_health_and_unknown_paths() -> None:
    async with front() as (client, running):
        assert (await client.get("/health")).json() == {"status": "serving"}
        assert (await client.get("/health/live")).status_code == 200

        assert running.http
        running.http._front.serving = lambda: False
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200
        error_of(await client.get("/v1/unknown"), 404)
        error_of(await client.get(PATH), 405)


async def test_bodies_are_bounded_plain_and_json() -> None:
    async with front() as (client, running):
        large = b"{" + b" " * MAX_MESSAGE_BYTES
        assert error_of(await client.post(PATH, content=large), 413)["code"] == "request_too_large"

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(MAX_MESSAGE_BYTES // (1 << 20) + 1):
                yield bytes(1 << 20)

        # Without its length in front it is counted as it comes.
        error_of(await client.post(PATH, content=pieces()), 413)
        error_of(await client.post(PATH, content=body(), headers={"content-encoding": "gzip"}), 415)
        error_of(await client.post(PATH, content=body(), headers={"content-type": "text/plain"}), 415)
        for wrong in (b"", b"{", b"\xff", b"[" * 100_000, b"null", b'{"model": NaN}'):
            error_of(await client.post(PATH, content=wrong), 400)
        assert running.parts.calls == 0
        # Half a body, and then nobody.
        half = await connected(running)
        await sent(half, head(body()), body()[:100])
        half.close()
        assert (await client.post(PATH, content=body())).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        rb'{"model": "\ud800"}',
        rb'{"\ud800": 1}',
        asking(rb'"dreamr": {"policy": "\udfff"}'),
        asking(b'"dreamr": {"window": 1e999}'),
        asking(b'"dreamr": {"alpha": 1e999}'),
        asking(b'"dreamr": {"alpha": 1' + b"0" * 400 + b"}"),
        asking(b'"timeout": 1e999'),
        rb'{"model": "dreamr", "messages": [{"role": "user", "content": "\ud800"}]}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"dreamr": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001,
        b'{"": 1}',
        b"[]",
    ],
    ids=range(12),
)
async def test_odd_json_is_the_clients_mistake(wrong: bytes) -> None:
    async with front() as (client, running):
        error = error_of(await client.post(PATH, content=wrong), 400)
        assert error["type"] == "invalid_request_error"
        assert running.parts.calls == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": [{}] * 150_000},
        {"messages": [{"role": "user", "content": [{}] * 150_000}]},
        {f"k{index}": 1 for index in range(100_000)},
        {"messages": [{"role": "user", "content": "x", **{f"k{index}": 1 for index in range(100_000)}}]},
        {"metadata": [[]] * 1_000_000},
    ],
    ids=["messages", "parts", "parameters", "fields", "values"],
)
async def test_many_mistakes_cost_no_more_than_one(changes: dict[str, Any]) -> None:
    content = body(**changes)
    async with front() as (client, _):
        tracemalloc.start()
        try:
            began = time.process_time()
            error_of(await client.post(PATH, content=content), 400)
            spent = time.process_time() - began
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The parsed values themselves; an error for each took ten times as much.
    assert peak < 60 << 20
    assert spent < 3


async def test_a_body_is_not_read_for_who_may_not_call(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        keys.add("ci")
    async with front(keys=path) as (_, running):
        client = await connected(running)
        await sent(client, head(bytes(60_000_000)))
        answer = await asyncio.get_running_loop().sock_recv(client, 65536)
        assert answer.startswith(b"HTTP/1.1 401 ")
        client.close()


async def test_heads_and_bodies_must_come_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.3)
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.3)
    async with front() as (_, running), asyncio.timeout(20):
        silent, slow, late = [await connected(running) for _ in range(3)]
        await sent(slow, "POST /v1/chat")
        await sent(late, head(body()), body()[:100])
        assert await read_to_end(silent) == b""
        assert await read_to_end(slow) == b""
        answer = await asyncio.get_running_loop().sock_recv(late, 65536)
        assert answer.startswith(b"HTTP/1.1 504 ")
        for client in (silent, slow, late):
            client.close()


async def test_a_client_that_does_not_read_is_given_up_at_its_deadline() -> None:
    # More than what kernels keep for a client: a few megabytes on each side.
    parts = FakeServices(steps=tuple(str(index) * 2_000_000 for index in range(12)), delay=0)
    async with front(parts, max_call_seconds=2.0) as (client, running), asyncio.timeout(60):
        stuck = await connected(running, SO_RCVBUF=4096)
        content = body(stream=True, dreamr={"policy": "target"})
        await sent(stuck, head(content), content)
        assert running.http
        tasks = running.http._front._running
        while not tasks:  # noqa: ASYNC110 - the other side of a socket
            await asyncio.sleep(0.01)
        while tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert running.http._server
        connections = running.http._server.server_state.connections
        while connections:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert (await client.get("/health")).status_code == 200
        stuck.close()


async def test_a_silent_stream_shows_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_BEAT_SECONDS", 0.05)
    async with front(FakeServices(target_delay=0.3)) as (client, _):
        content = body(stream=True, dreamr={"policy": "target"})
        async with client.stream("POST", PATH, content=content) as response:
            lines = [line async for line in response.aiter_lines()]
        assert ": " in lines
        assert lines[-2:] == ["data: [DONE]", ""]


async def test_calls_are_bounded() -> None:
    parts = busy()
    async with (
        front(parts, max_calls=1) as (client, _),
        idle(parts, 10),
        client.stream("POST", PATH, content=body(stream=True)),
    ):
        error = error_of(await client.get("/v1/models"), 429)
        assert error["message"] == "calls: the limit is 1 at once"
        assert (await client.get("/health")).status_code == 200


async def test_one_caller_has_half_of_the_calls_whatever_it_sends(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        greedy, other = keys.add("greedy"), keys.add("other")
    async with front(keys=path, max_calls=4) as (client, running):
        slow = [await connected(running) for _ in range(2)]
        for one in slow:
            await sent(one, head(body(), authorization=f"Bearer {greedy}"), body()[:100])
        assert running.http
        while len(running.http._front._running) < 2:  # noqa: ASYNC110 - the other side of a socket
            await asyncio.sleep(0.005)
        refused = await client.get("/v1/models", headers={"authorization": f"Bearer {greedy}"})
        assert error_of(refused, 429)["message"] == "calls: the limit is 2 of one caller at once"
        found = await client.get("/v1/models", headers={"authorization": f"Bearer {other}"})
        assert found.status_code == 200
        for one in slow:
            one.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("localhost:7080", 200),
        ("Gateway:8080", 200),
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
async def test_who_needs_no_key_must_name_this_host(host: str, status: int) -> None:
    async with front(http_hosts="gateway,other") as (client, _):
        for path in ("/v1/models", "/health"):
            response = await client.get(path, headers={"host": host})
            assert response.status_code == status
        if status != 200:
            assert error_of(await client.post(PATH, content=body(), headers={"host": host}), status)


async def test_with_keys_a_gateway_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        secret = keys.add("ci")
    async with front(keys=path) as (client, _):
        headers = {"host": "dreamr.example", "authorization": f"Bearer {secret}"}
        assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_a_front_that_cannot_begin_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: Any, sockets: Any = None) -> None:
        raise RuntimeError("no loop for it")

    monkeypatch.setattr(uvicorn.Server, "startup", fails)
    async with gateway() as running, asyncio.timeout(10):
        http = server.HttpServer(front_of(running), "127.0.0.1:0", asks_clients=False, most=1)
        with pytest.raises(RuntimeError, match="no loop for it"):
            await http.start(lambda: True)


async def test_on_drain_short_requests_end_and_long_ones_are_told() -> None:
    parts = FakeServices(target_delay=0.5, delay=0.3)
    async with front(parts) as (client, running), asyncio.timeout(30):
        assert running.http
        async with client.stream("POST", PATH, content=body(model="dreamr/target", stream=True)) as response:
            lines = response.aiter_lines()
            await anext(lines)
            parts.target_delay = 60
            short = asyncio.create_task(client.post(PATH, content=body()))
            while parts.running < 2:  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.005)
            stopping = asyncio.create_task(running.http.stop(5))
            rest = [line async for line in lines if line.startswith("data: ")]
            await stopping
        assert (await short).json()["choices"][0]["message"]["content"] == "42"
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "unavailable"
        with pytest.raises(httpx2.TransportError):
            await client.get("/health")


async def test_calls_are_counted() -> None:
    def count(status: str) -> float:
        labels = {"method": "ChatCompletions", "status": status}
        return REGISTRY.get_sample_value("dreamr_calls_total", labels) or 0.0

    before = {status: count(status) for status in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")}
    async with front() as (client, _):
        await client.post(PATH, content=body())
        await client.post(PATH, content=body(n=2))
        await client.post(PATH, content=body(model="other"))
    assert {status: count(status) - number for status, number in before.items()} == dict.fromkeys(before, 1)


def trusting(folder: Path, role: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if role:
        context.load_cert_chain(folder / f"{role}.pem", folder / f"{role}-key.pem")
    return context


def files(folder: Path) -> dict[str, Any]:
    return {
        "tls_cert": folder / "gateway.pem",
        "tls_key": folder / "gateway-key.pem",
        "tls_ca": folder / "ca.pem",
    }


async def test_with_tls_and_keys_a_key_is_enough(tmp_path: Path) -> None:
    folder, path = issued(tmp_path / "certs", "--hosts", "127.0.0.1"), tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        secret = keys.add("ci")
    async with gateway(http="127.0.0.1:0", keys=path, **files(folder)) as running:
        async with httpx2.AsyncClient(verify=trusting(folder)) as client:
            error_of(await client.get(f"{running.url}/v1/models"), 401)
            headers = {"authorization": f"Bearer {secret}"}
            assert (await client.get(f"{running.url}/v1/models", headers=headers)).status_code == 200
        async with httpx2.AsyncClient() as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get(f"{running.url}/health")
            with pytest.raises(httpx2.TransportError):
                await client.get(running.url.replace("https", "http"))


async def test_with_tls_and_without_keys_a_clients_certificate_is_wanted(tmp_path: Path) -> None:
    folder = issued(tmp_path, "--hosts", "127.0.0.1")
    async with gateway(http="127.0.0.1:0", **files(folder)) as running:
        for role, status in (("client", 200), ("gateway", 200), ("draft", 403)):
            async with httpx2.AsyncClient(verify=trusting(folder, role)) as client:
                assert (await client.get(f"{running.url}/v1/models")).status_code == status
        async with httpx2.AsyncClient(verify=trusting(folder)) as client:
            with pytest.raises(httpx2.TransportError):
                await client.get(f"{running.url}/v1/models")


async def test_a_renewed_certificate_is_shown_to_the_next_connection(tmp_path: Path) -> None:
    folder = issued(tmp_path, "--hosts", "127.0.0.1")

    async def shown(port: int) -> bytes | None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(folder, "client"))
        found: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return found

    async with gateway(http="127.0.0.1:0", **files(folder)) as running:
        port = int(running.url.rpartition(":")[2])
        first = await shown(port)
        assert await shown(port) == first
        issued(folder, "--force", "--hosts", "127.0.0.1")
        assert await shown(port) != first
