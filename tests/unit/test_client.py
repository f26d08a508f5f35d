"""The client against a fake gateway over real gRPC."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from PIL import Image

import dreamr
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc

Response = gateway_pb2.ReasonResponse
Context = grpc.aio.ServicerContext[Any, Any]

STARTED = Response(started=gateway_pb2.Started(session_id="s", policy="fpsr", window=4, alpha=0.7))
COMMIT = Response(
    commit=gateway_pb2.Commit(
        index=0,
        step=common_pb2.Step(text="one .", tokens=3, closes=True),
        author=gateway_pb2.AUTHOR_DRAFT,
        verdict=common_pb2.Verdict(accept=True, reason=common_pb2.VERDICT_REASON_SCORE, score=0.9, mass=1),
    )
)
FINISHED = Response(
    finished=gateway_pb2.Finished(answer="42", reason=gateway_pb2.FINISH_REASON_STOP, seconds=0.5)
)


class FakeGateway(gateway_pb2_grpc.ReasoningServiceServicer):
    """Does what a test tells it to."""

    def __init__(self) -> None:
        self.requests: list[gateway_pb2.ReasonRequest] = []
        self.asked = asyncio.Event()
        self.hold = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.status: tuple[grpc.StatusCode, str] | None = None
        self.says = [STARTED, COMMIT, FINISHED]

    async def Reason(  # type: ignore[override]
        self, request: gateway_pb2.ReasonRequest, context: Context
    ) -> None:
        self.requests.append(request)
        self.asked.set()
        if self.status:
            await context.abort(*self.status)
        try:
            for response in self.says:
                await context.write(response)
            if len(self.says) < 3:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[FakeGateway, dreamr.AsyncClient]]:
    gateway, server = FakeGateway(), grpc.aio.server()
    gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with dreamr.AsyncClient(f"127.0.0.1:{port}", timeout=10) as client:
            yield gateway, client
    finally:
        gateway.hold.set()
        await server.stop(1)


async def test_events_are_typed() -> None:
    async with serving() as (_, client):
        seen = [event async for event in client.reason("q")]
    started, commit, finished = seen
    assert isinstance(started, dreamr.Started)
    assert isinstance(commit, dreamr.Commit)
    assert isinstance(finished, dreamr.Finished)
    assert (commit.author, commit.score) == ("draft", 0.9)
    assert commit.verdict is not None
    assert commit.verdict.reason == "score"
    assert finished.reason == "stop"


async def test_ask_puts_the_answer_together() -> None:
    async with serving() as (_, client):
        answer = await client.ask("q")
    assert (answer.answer, answer.session_id, len(answer.steps)) == ("42", "s", 1)


async def test_images_from_path_bytes_and_pillow(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    path = tmp_path / "image.png"
    image.save(path)
    async with serving() as (gateway, client):
        await client.ask("q", images=[path, str(path), path.read_bytes(), image])
    sent = [one.data for one in gateway.requests[0].images]
    assert sent[:3] == [path.read_bytes()] * 3
    assert Image.open(io.BytesIO(sent[3])).size == (4, 4)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, dreamr.InvalidRequestError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, dreamr.OverloadedError),
        (grpc.StatusCode.UNAVAILABLE, dreamr.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, dreamr.DeadlineError),
        (grpc.StatusCode.INTERNAL, dreamr.ServerError),
    ],
)
async def test_statuses_become_errors(status: grpc.StatusCode, error: type[dreamr.DreamrError]) -> None:
    async with serving() as (gateway, client):
        gateway.status = status, "why"
        with pytest.raises(error, match="why"):
            await client.ask("q")


async def test_leaving_the_iterator_cancels_the_session() -> None:
    async with serving() as (gateway, client):
        gateway.says = [STARTED]
        async with aclosing(client.reason("q")) as events:
            async for _ in events:
                break
        async with asyncio.timeout(5):
            await gateway.cancelled.wait()


async def test_cancelling_the_task_cancels_the_session() -> None:
    async with serving() as (gateway, client):
        gateway.says = [STARTED]
        task = asyncio.create_task(client.ask("q"))
        async with asyncio.timeout(5):
            await gateway.asked.wait()
            task.cancel()
            await gateway.cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_deadline_that_passes() -> None:
    async with serving() as (gateway, client):
        gateway.says = [STARTED]
        with pytest.raises(dreamr.DeadlineError):
            await client.ask("q", timeout=0.1)


async def test_nobody_there() -> None:
    async with dreamr.AsyncClient("127.0.0.1:1", timeout=2) as client:
        with pytest.raises(dreamr.UnavailableError):
            await client.ask("q")
