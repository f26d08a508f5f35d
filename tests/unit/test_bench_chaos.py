"""What counts as a loss, and a proxy that misbehaves as it is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from bench.chaos.fight import problems
from bench.chaos.proxy import Proxy
from bench.chaos.watched import BAD, Listener, Stream, Watched, faults_of, watch, watch_in_background
from dreamr.events import Commit, Finished, Session, from_proto
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from tests.unit.fake_triton import serving


def commit(index: int, text: str = "") -> Commit:
    return Commit(index, text or f"step {index}", "draft", 5, False, None, 0.0, 0.0, 0.0)


def finished(answer: str = "42") -> Finished:
    found = from_proto(gateway_pb2.ReasonResponse(finished=gateway_pb2.Finished(answer=answer)))
    assert isinstance(found, Finished)
    return found


def watched(*indexes: int, answered: bool = True, streams: Sequence[Stream] = ()) -> Watched:
    return Watched("s", [commit(index) for index in indexes], finished() if answered else None, streams)


def stored(count: int, status: str = "finished", answer: str = "42") -> Session:
    end = finished(answer) if status == "finished" else None
    return Session(status, False, tuple(commit(index) for index in range(count)), end)


def stream(first: int, *indexes: int, by: bytes = b"one") -> Stream:
    return Stream(first, [(index, by) for index in indexes])


def test_nothing_is_wrong_with_what_is_stored_as_it_was_told() -> None:
    streams = [stream(0, 0, 1), stream(2), stream(2, 2)]
    assert not +faults_of(watched(0, 1, 2, streams=streams), stored(3))
    assert not +faults_of(watched(0, 1), None, compared=False)


@pytest.mark.parametrize(
    ("found", "kept", "bad"),
    [
        (watched(0, 2), stored(3), {"lost": 1}),
        (watched(0, 1, 1), stored(2), {"repeated": 1}),
        (watched(0, 2, 1), stored(3), {"reordered": 1}),
        (watched(0, 1, answered=False), stored(3, "running"), {"unanswered": 1}),
        (watched(0, 1, 2), stored(2), {"lost": 1}),
        (watched(0, 1), None, {"lost": 2, "unfinished": 1}),
        (watched(0, 1), stored(4), {"lost": 2}),
        (watched(0, 1), stored(2, "running"), {"unfinished": 1}),
        (watched(0, 1), stored(2, answer="43"), {"changed": 1}),
        (Watched("s", [commit(0, "other")], finished()), stored(1), {"changed": 1}),
        (watched(0, 1, streams=[stream(0, 0), stream(1, 0, 1)]), stored(2), {"repeated": 1}),
        (watched(0, 1, streams=[stream(0, 0, 1, 1)]), stored(2), {"repeated": 1}),
        (watched(0, 1, 2, streams=[stream(0, 0, 2, 1)]), stored(3), {"reordered": 1}),
        (watched(0, 1, 2, streams=[stream(1, 2)]), stored(3), {"lost": 1}),
        (
            watched(0, 1, streams=[stream(0, 0, 1), stream(1, 1, by=b"other")]),
            stored(2),
            {"changed": 1},
        ),
    ],
)
def test_each_fault_is_counted(found: Watched, kept: Session | None, bad: dict[str, int]) -> None:
    assert +faults_of(found, kept) == bad


class Repeating(gateway_pb2_grpc.ReasoningServiceServicer):
    """Breaks off behind its first commit, and tells that once more, otherwise, when it is resumed."""

    async def Reason(self, request: Any, context: Any) -> AsyncIterator[gateway_pb2.ReasonResponse]:
        yield gateway_pb2.ReasonResponse(started=gateway_pb2.Started(session_id="s"))
        yield self._commit("one")
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async def Resume(self, request: Any, context: Any) -> AsyncIterator[gateway_pb2.ResumeResponse]:
        for response in (
            gateway_pb2.ReasonResponse(started=gateway_pb2.Started(session_id="s")),
            self._commit("other"),
            gateway_pb2.ReasonResponse(finished=gateway_pb2.Finished(answer="42")),
        ):
            yield gateway_pb2.ResumeResponse(happened=response)

    def _commit(self, text: str) -> gateway_pb2.ReasonResponse:
        return gateway_pb2.ReasonResponse(commit=gateway_pb2.Commit(step=common_pb2.Step(text=text)))


async def test_what_the_client_drops_is_judged_too() -> None:
    def add(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(Repeating(), server)  # type: ignore[abstract]

    async with serving(add) as address, Listener(address, timeout=10, resume_seconds=5) as client:
        found = await watch(client, client.reason("q"))
    assert [one.text for one in found.commits] == ["one"]
    assert [one.first for one in found.streams] == [0, 1]
    assert +faults_of(found, None, compared=False) == {"repeated": 1, "changed": 1}


async def test_who_comes_back_hears_all_and_what_it_heard_before_is_judged() -> None:
    def add(server: grpc.aio.Server) -> None:
        gateway_pb2_grpc.add_ReasoningServiceServicer_to_server(Repeating(), server)  # type: ignore[abstract]

    async with serving(add) as address, Listener(address, timeout=10, resume_seconds=5) as client:
        found = await watch_in_background(client, client.reason("q", background=True), 0)
    assert [one.text for one in found.commits] == ["other"]
    assert found.finished
    assert [one.first for one in found.streams] == [0, 0]
    assert +faults_of(found, None, compared=False) == {"changed": 1}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, []),
        ({"wrong": ["s: begun twice"]}, ["s: begun twice"]),
        ({"changed": 2}, ["changed: 2"]),
        ({"refused": {"renew": 3, "append": 0}}, ["nobody tried to append under a stale fence"]),
        ({"refused": {}, "fought": 99}, []),
    ],
)
def test_what_is_wrong_with_a_fight(changes: dict[str, Any], problem: list[str]) -> None:
    right = {"wrong": [], "fought": 100, "refused": {"append": 1}, **dict.fromkeys(BAD, 0)}
    assert problems({**right, **changes}) == problem


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Proxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while line := await reader.readline():
                writer.write(line)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with Proxy(f"{host}:{port}") as proxy:
        near, _, number = proxy.address.rpartition(":")
        reader, writer = await asyncio.open_connection(near, int(number))
        try:
            yield proxy, reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            await ended.wait()
    server.close()
    await server.wait_closed()


async def test_the_proxy_forwards_both_ways() -> None:
    async with echoing() as (_, reader, writer):
        writer.write(b"one\n")
        assert await reader.readline() == b"one\n"


async def test_what_is_cut_ends() -> None:
    async with echoing() as (proxy, reader, writer):
        writer.write(b"one\n")
        await reader.readline()
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_a_black_hole_lets_everything_through_in_the_end() -> None:
    async with echoing() as (proxy, reader, writer):
        swallowing = asyncio.create_task(proxy.swallow(0.2))
        await asyncio.sleep(0)
        writer.write(b"one\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readline()
        await swallowing
        assert await reader.readline() == b"one\n"


async def test_pieces_are_held_up() -> None:
    async with echoing() as (proxy, reader, writer):
        slow = asyncio.create_task(proxy.slow_down(0.1, 1.0))
        await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
        writer.write(b"one\n")
        await reader.readline()
        assert asyncio.get_running_loop().time() - before >= 0.2
        slow.cancel()
