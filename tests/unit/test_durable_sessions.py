"""Sessions that outlive a stream and a gateway: two gateways over one store."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.errors import LateError
from services.common.interceptor import CANCELLED_KEY
from services.gateway.call import LocalCall
from services.gateway.callers import Caller
from services.gateway.memory_store import MemoryStore
from services.gateway.plan import Plan
from services.gateway.reasoning import LAST_WORDS_SECONDS, Task
from services.gateway.service import _Listener
from services.gateway.sessions import Session
from services.gateway.store import Appended, Hold, Status, StoreError
from tests.unit.fake_services import FakeServices, idle
from tests.unit.running_gateway import PAIR, Gateway, commits, gateway, request

Options = gateway_pb2.ReasonOptions
Code = grpc.StatusCode
MANY = tuple(f"step {number} ." for number in range(8))


class Shared(MemoryStore):
    """Stands for a store that outlives its gateways."""

    durable = True


@asynccontextmanager
async def two(parts: FakeServices, lease_seconds: float = 0.3) -> AsyncIterator[tuple[Gateway, Gateway]]:
    store = Shared(ttl_seconds=60)
    async with (
        gateway(parts, store=store, lease_seconds=lease_seconds) as one,
        gateway(parts, store=store, lease_seconds=lease_seconds) as other,
    ):
        yield one, other


async def resumed(
    at: Gateway, session_id: str, first: int = 0, timeout: float = 10
) -> list[gateway_pb2.ReasonResponse]:
    asked = gateway_pb2.ResumeRequest(session_id=session_id, from_index=first)
    return [message.happened async for message in at.stub.Resume(asked, timeout=timeout)]


async def begun(
    at: Gateway, count: int, asked: gateway_pb2.ReasonRequest | None = None
) -> tuple[Any, str, list[gateway_pb2.ReasonResponse]]:
    """A call with its session's id and so many of its commits."""
    call = at.stub.Reason(asked or request(Options(policy="target")), timeout=10)
    told: list[Any] = [await call.read() for _ in range(1 + count)]
    return call, told[0].started.session_id, told[1:]


async def read(call: Any, into: list[gateway_pb2.ReasonResponse]) -> None:
    """To the end of the stream."""
    while (response := await call.read()) is not grpc.aio.EOF:
        into.append(response)


async def test_a_finished_session_is_told_again() -> None:
    async with two(FakeServices()) as (one, other):
        told = await one.reason()
        again = await resumed(other, told[0].started.session_id, 1)
        assert commits(again) == commits(told)[1:]
        assert again[0].started.session_id == told[0].started.session_id
        assert again[-1] == told[-1]


async def test_a_client_that_has_gone_finds_its_session_where_it_was() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    async with two(parts) as (one, other):
        async with idle(parts):
            call, session_id, seen = await begun(one, 3)
            call.cancel()
        rest = await resumed(other, session_id, len(seen))
        texts = [response.commit.step.text for response in seen] + [one.step.text for one in commits(rest)]
        assert texts == list(MANY)
        assert [one.index for one in commits(rest)] == list(range(3, 8))
        assert rest[-1].finished.answer == "42"
        assert sum(response.HasField("started") for response in rest) == 1


async def test_nobody_goes_on_behind_less_than_a_client_was_told() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    async with two(parts, lease_seconds=2) as (one, other):
        async with idle(parts):
            call, session_id, _ = await begun(one, 3)
            call.cancel()
        stored = await one.store.load(session_id)
        assert stored
        count = len(stored.steps)
        rest = asyncio.create_task(resumed(other, session_id, count + 1))
        # Long enough to have taken over, where it would.
        await asyncio.sleep(0.3)
        told = gateway_pb2.Commit.FromString(stored.steps[-1])
        told.index = count
        told.step.text = MANY[count]
        step = told.SerializeToString(deterministic=True)
        assert await one.store.append(session_id, stored.fence, count, step) is Appended.DONE
        assert [commit.index for commit in commits(await rest)] == list(range(count + 1, len(MANY)))


async def test_what_was_told_and_is_lost_is_said_to_be() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    async with two(parts) as (one, other):
        async with idle(parts):
            call, session_id, _ = await begun(one, 3)
            call.cancel()
        with pytest.raises(grpc.aio.AioRpcError, match="has no step 7") as caught:
            await resumed(other, session_id, 8)
        assert caught.value.code() is Code.NOT_FOUND


async def test_a_session_behind_given_steps_is_resumed_behind_them() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    given = [common_pb2.Step(text=text) for text in MANY[:2]]
    async with two(parts) as (one, other):
        async with idle(parts):
            call, session_id, seen = await begun(one, 2, request(Options(policy="target"), steps=given))
            call.cancel()
        rest = await resumed(other, session_id, len(seen))
    assert [commit.step.text for commit in commits([*seen, *rest])] == list(MANY[2:])
    assert [commit.index for commit in commits(rest)] == list(range(2, 6))
    assert list(parts.requests["Generate"][-1].context.steps[:4]) == list(MANY[:4])


async def test_a_session_that_runs_is_followed_from_elsewhere() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.05)
    async with two(parts) as (one, other):
        call, session_id, _ = await begun(one, 2)
        followed = asyncio.create_task(resumed(other, session_id, 1))
        await read(call, [])
        told = await followed
        assert [commit.step.text for commit in commits(told)] == list(MANY[1:])
        assert told[-1].finished.answer == "42"
        assert len(parts.requests["Generate"]) == 1, "one gateway only has worked on it"


async def test_a_gateway_that_hangs_loses_its_session_and_says_nothing_more() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.04)
    async with two(parts, lease_seconds=30) as (one, other):
        call, session_id, seen = await begun(one, 2)
        # As if it had not been able to renew its lease.
        one.store._leases[session_id] = 0.0
        rest = asyncio.create_task(resumed(other, session_id, len(seen)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(call, seen)
        assert caught.value.code() is Code.UNAVAILABLE
        told = [response.commit.step.text for response in seen if response.HasField("commit")]
        assert told == list(MANY[: len(told)])
        assert len(told) < len(MANY)
        assert [commit.step.text for commit in commits(await rest)] == list(MANY[2:])
        stored = await one.store.load(session_id)
        assert stored
        assert (stored.status, len(stored.steps)) == (Status.FINISHED, len(MANY))


async def test_a_gateway_that_is_told_to_stop_hands_its_sessions_over() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.03)
    async with two(parts, lease_seconds=30) as (one, other):
        call, session_id, seen = await begun(one, 1)
        one.service.drain()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read(call, seen)
        assert caught.value.code() is Code.UNAVAILABLE
        assert len(seen) < len(MANY)
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            await one.reason()
        async with asyncio.timeout(5):
            rest = await resumed(other, session_id, len(seen))
        assert [commit.step.text for commit in commits(rest)] == list(MANY[len(seen) :])


async def test_a_repeat_joins_the_session_that_it_began() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.02)
    asked = request(Options(policy="target"), request_id="mine")
    async with two(parts) as (one, other):
        call, session_id, _ = await begun(one, 2, asked)
        again = await other.reason(asked)
        assert again[0].started.session_id == session_id
        assert [commit.step.text for commit in commits(again)] == list(MANY)
        await read(call, [])
        assert len(parts.requests["Generate"]) == 1
        with pytest.raises(grpc.aio.AioRpcError, match="request_id") as caught:
            await other.reason(request(Options(policy="target"), request_id="mine", question="another ?"))
        assert caught.value.code() is Code.INVALID_ARGUMENT


async def test_a_session_is_cancelled_from_anywhere() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.05)
    async with two(parts) as (one, other), idle(parts):
        call, session_id, _ = await begun(one, 1)
        asked = gateway_pb2.CancelRequest(session_id=session_id)
        assert (await other.stub.Cancel(asked)).cancelled
        # A status comes behind whatever was told before it.
        with pytest.raises(grpc.aio.AioRpcError):
            await read(call, [])
        assert await call.code() is Code.CANCELLED
        assert dict(await call.trailing_metadata())[CANCELLED_KEY] == "true"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resumed(other, session_id)
        assert caught.value.code() is Code.CANCELLED
        assert not (await one.stub.Cancel(asked)).cancelled
        found = await one.stub.GetSession(gateway_pb2.GetSessionRequest(session_id=session_id))
        assert (found.status, found.held) == (gateway_pb2.SESSION_STATUS_CANCELLED, False)


async def test_where_a_session_stands() -> None:
    parts = FakeServices(steps=MANY, target_delay=0.03)
    async with two(parts) as (one, other):
        call, session_id, seen = await begun(one, 2)
        asked = gateway_pb2.GetSessionRequest(session_id=session_id)
        found = await other.stub.GetSession(asked)
        assert (found.status, found.held) == (gateway_pb2.SESSION_STATUS_RUNNING, True)
        assert list(found.commits)[:2] == [response.commit for response in seen]
        await read(call, [])
        found = await other.stub.GetSession(asked)
        assert (found.status, found.finished.answer) == (gateway_pb2.SESSION_STATUS_FINISHED, "42")
        assert len(found.commits) == len(MANY)


@pytest.mark.parametrize(("session_id", "code"), [("", Code.INVALID_ARGUMENT), ("x", Code.NOT_FOUND)])
async def test_sessions_that_are_not_there(session_id: str, code: grpc.StatusCode) -> None:
    async with two(FakeServices()) as (one, _):
        for call in (
            resumed(one, session_id),
            one.stub.GetSession(gateway_pb2.GetSessionRequest(session_id=session_id)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code


async def test_only_where_it_is_wanted_a_store_that_is_away_refuses_sessions() -> None:
    class Away(Shared):
        async def create(self, *arguments: object) -> int:
            raise StoreError("away")

    async with gateway(store=Away(ttl_seconds=60)) as running:
        told = await running.reason()
        assert not told[0].started.durable
        assert "store: away" in told[-1].finished.degraded
    async with gateway(store=Away(ttl_seconds=60), durable_only=True) as running:
        with pytest.raises(grpc.aio.AioRpcError, match="away") as caught:
            await running.reason()
        assert caught.value.code() is Code.UNAVAILABLE


class Telling(Shared):
    """Tells of each renewal."""

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)
        self.renewals: asyncio.Queue[str] = asyncio.Queue()

    async def renew(self, session_id: str, fence: int, lease_seconds: float) -> Hold:
        self.renewals.put_nowait(session_id)
        return await super().renew(session_id, fence, lease_seconds)


async def test_a_session_is_held_until_its_client_has_read_it_all() -> None:
    """One that reads slowly must not have another gateway write the session's end a second time."""
    store, first, read_on = Telling(), asyncio.Event(), asyncio.Event()
    known: list[Status] = []
    async with gateway(store=store, lease_seconds=0.1) as running:
        reasoning = running.service._reasoning
        session = await Session.open(store, "slow", b"", (), 0.1)
        assert session
        asked = request()
        context = common_pb2.Context(session_id="slow", question=asked.question, images=asked.images)
        task = Task(Plan.of(asked, PAIR), context, asyncio.get_running_loop().time() + 30)

        async def send(response: gateway_pb2.ReasonResponse) -> None:
            if response.HasField("commit"):
                first.set()
                await read_on.wait()
            elif response.HasField("finished"):
                found = await store.load("slow")
                known.append(found.status if found else Status.RUNNING)

        working = asyncio.create_task(reasoning.run(session, task, send))
        async with asyncio.timeout(30):
            await first.wait()
            for _ in range(store.renewals.qsize() + 4):  # each of the last four a third of a lease later
                await store.renewals.get()
            assert not await store.take_over("slow", 1, "other")
            # The governor's load is the target's, which has nothing left to do.
            while reasoning._governor.sessions:
                await store.renewals.get()
            read_on.set()
            await working
    assert known == [Status.FINISHED], "an answer is stored before it is told"


async def test_a_client_that_does_not_read_is_not_followed_for_ever() -> None:
    async with gateway() as running:
        session_id = (await running.reason())[0].started.session_id

        async def send(_: gateway_pb2.ReasonResponse) -> None:
            await asyncio.get_running_loop().create_future()

        deadline = asyncio.get_running_loop().time() - LAST_WORDS_SECONDS + 0.05
        listener = _Listener(session_id, Caller(), send, LocalCall([], deadline, send), deadline)
        async with asyncio.timeout(30):
            with pytest.raises(LateError, match="did not read within the deadline"):
                await running.service._follow(listener)
