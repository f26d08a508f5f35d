"""What counts as a loss, and a proxy that misbehaves as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from bench.chaos.proxy import Proxy
from bench.chaos.watched import Watched, faults_of
from dreamr.events import Commit, Session


def commit(index: int, text: str = "") -> Commit:
    return Commit(index, text or f"step {index}", "draft", 5, False, None, 0.0, 0.0, 0.0)


def watched(*indexes: int, answered: bool = True) -> Watched:
    return Watched("s", [commit(index) for index in indexes], answered)


def stored(count: int) -> Session:
    return Session("finished", False, tuple(commit(index) for index in range(count)), None)


def test_nothing_is_wrong_with_what_is_stored_as_it_was_told() -> None:
    assert not +faults_of(watched(0, 1, 2), stored(3))


@pytest.mark.parametrize(
    ("found", "kept", "bad"),
    [
        (watched(0, 2), stored(3), {"lost": 1}),
        (watched(0, 1, 1), stored(2), {"repeated": 1}),
        (watched(0, 2, 1), stored(3), {"reordered": 1}),
        (watched(0, 1, answered=False), stored(2), {"unanswered": 1}),
        (watched(0, 1, 2), stored(2), {"lost": 1}),
        (watched(0, 1), None, {"lost": 2}),
        (Watched("s", [commit(0, "other")], True), stored(1), {"lost": 1}),
    ],
)
def test_each_fault_is_counted(found: Watched, kept: Session | None, bad: dict[str, int]) -> None:
    assert +faults_of(found, kept) == bad


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
