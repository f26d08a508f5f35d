"""Who resumes a session is told the one that it knows, or that it is another."""

import asyncio

import grpc
import pytest

from dreamr.digest import commit_digest
from dreamr.v1 import common_pb2, gateway_pb2
from services.gateway.memory_store import MemoryStore
from services.gateway.store import Appended, Status
from tests.unit.fake_services import FakeServices
from tests.unit.running_gateway import Gateway, commits, gateway

Code = grpc.StatusCode


def step(index: int, text: str = "") -> gateway_pb2.Commit:
    return gateway_pb2.Commit(
        index=index, step=common_pb2.Step(text=text or f"step {index} ."), author=gateway_pb2.AUTHOR_TARGET
    )


async def stored(store: MemoryStore, count: int) -> int:
    """A session `s` of so many steps, held for a minute; its fence."""
    request = gateway_pb2.ReasonRequest(question="q").SerializeToString()
    fence = await store.create("s", request, (), 60, "owner")
    for index in range(count):
        await append(store, fence, step(index))
    return fence


async def append(store: MemoryStore, fence: int, commit: gateway_pb2.Commit) -> None:
    assert await store.append("s", fence, commit.index, commit.SerializeToString()) is Appended.DONE


async def resumed(
    at: Gateway, first: int, digest: bytes, timeout: float = 10
) -> list[gateway_pb2.ReasonResponse]:
    asked = gateway_pb2.ResumeRequest(session_id="s", from_index=first, last_commit_digest=digest)
    return [message.happened async for message in at.stub.Resume(asked, timeout=timeout)]


async def test_behind_what_the_client_knows_it_goes_on() -> None:
    async with gateway() as running:
        await running.store.end("s", await stored(running.store, 3), Status.FINISHED, b"")
        for first in (0, 1, 2, 3):
            digest = commit_digest(step(max(0, first - 1)))
            told = await resumed(running, first, digest)
            assert commits(told) == [step(index) for index in range(first, 3)]
            assert told[-1].HasField("finished")


@pytest.mark.parametrize(("first", "known"), [(2, step(1, "another .")), (5, step(4)), (1, step(1))])
async def test_of_another_one_nothing_is_told(first: int, known: gateway_pb2.Commit) -> None:
    async with gateway() as running:
        await running.store.end("s", await stored(running.store, 3), Status.FINISHED, b"")
        with pytest.raises(grpc.aio.AioRpcError, match="otherwise") as caught:
            await resumed(running, first, commit_digest(known))
        assert caught.value.code() is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("text", ["", "another ."])
async def test_a_step_that_is_not_there_yet_is_compared_once_it_is(text: str) -> None:
    async with gateway() as running:
        fence = await stored(running.store, 2)
        following = asyncio.create_task(resumed(running, 3, commit_digest(step(2))))
        await asyncio.sleep(0.2)
        await append(running.store, fence, step(2, text))
        await append(running.store, fence, step(3))
        await running.store.end("s", fence, Status.FINISHED, b"")
        if text:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await following
            assert caught.value.code() is Code.FAILED_PRECONDITION
        else:
            assert commits(await following) == [step(3)]


async def test_one_that_nobody_holds_is_not_taken_over_for_who_knows_another() -> None:
    parts = FakeServices()
    async with gateway(parts) as running:
        fence = await stored(running.store, 2)
        await running.store.renew("s", fence, 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resumed(running, 2, commit_digest(step(1, "another .")))
        assert caught.value.code() is Code.FAILED_PRECONDITION
        assert "Generate" not in parts.requests


async def test_what_is_no_digest_is_refused() -> None:
    async with gateway() as running:
        with pytest.raises(grpc.aio.AioRpcError, match="last_commit_digest") as caught:
            await resumed(running, 1, b"short")
        assert caught.value.code() is Code.INVALID_ARGUMENT
