"""API keys at a gateway over real gRPC: who gets in, to which sessions, and for how much."""

import asyncio
import os
from pathlib import Path
from typing import Any

import grpc
import pytest

import dreamr
from dreamr.keys import KeyFile, Limits
from dreamr.v1 import common_pb2, gateway_pb2
from services.common.errors import UnauthenticatedError
from services.gateway.callers import Caller, Callers
from services.gateway.memory_store import MemoryStore
from services.gateway.store import Status
from tests.unit.fake_services import STEPS, FakeServices, busy
from tests.unit.running_gateway import Gateway, bearing, commits, gateway, let_go, refused, request

Code = grpc.StatusCode
Standing = gateway_pb2.SessionStatus


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def added(path: Path, caller: str, limits: Limits | None = None) -> str:
    with KeyFile.changed(path) as keys:
        secret = keys.add(caller)
        if limits:
            keys.callers[caller] = limits
    return secret


def revoke(path: Path, name: str) -> None:
    with KeyFile.changed(path) as keys:
        assert keys.revoke(name)


async def begun(call: Any) -> str:
    session_id: str = (await call.read()).started.session_id
    return session_id


async def code_of(call: Any) -> Code:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_without_a_key_or_with_a_wrong_one_nobody_gets_in(path: Path) -> None:
    secret = added(path, "ci")
    other = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    async with gateway(keys=path) as running:
        for wrong in ("", "x", other, f"{secret}x", f" {secret}", "dreamr_", "dreamr_00000000_x"):
            error = await refused(running, key=wrong)
            assert error.code() is Code.UNAUTHENTICATED, wrong
            assert not wrong or wrong not in str(error.details())
        assert running.parts.calls == 0
        assert len(commits(await running.reason(key=secret))) == len(STEPS)
        get = running.stub.GetSession(gateway_pb2.GetSessionRequest(session_id="x"))
        assert await code_of(get) is Code.UNAUTHENTICATED


async def test_the_request_of_one_who_is_not_let_in_is_not_even_read(path: Path) -> None:
    added(path, "ci")
    async with gateway(keys=path) as running:
        # Too large to be read: who is let in is refused for that.
        error = await refused(running, request(images=[common_pb2.Image(data=bytes(80_000_000))]))
        assert error.code() is Code.UNAUTHENTICATED


async def test_keys_are_rotated_while_the_gateway_runs(path: Path) -> None:
    first = added(path, "ci")
    async with gateway(keys=path) as running:
        told = await running.reason(key=first)
        second = added(path, "ci")
        revoke(path, first.split("_", 2)[1])
        error = await refused(running, key=first)
        assert error.code() is Code.UNAUTHENTICATED
        assert "revoked" in str(error.details())
        # The caller is the same: its sessions are still its own.
        wanted = gateway_pb2.GetSessionRequest(session_id=told[0].started.session_id)
        found = await running.stub.GetSession(wanted, metadata=bearing(second))
        assert list(found.commits) == commits(told)


async def test_sessions_belong_to_their_caller(path: Path) -> None:
    one, two = added(path, "one"), added(path, "two")
    async with gateway(keys=path) as running:
        asked = request(request_id="the same")
        told, others = await running.reason(asked, key=one), await running.reason(asked, key=two)
        session_id = told[0].started.session_id
        assert session_id != others[0].started.session_id, "a request id is its caller's own"
        assert (await running.reason(asked, key=one))[0].started.session_id == session_id
        mine, theirs = bearing(one), bearing(two)
        get = gateway_pb2.GetSessionRequest(session_id=session_id)
        assert await code_of(running.stub.GetSession(get, metadata=theirs)) is Code.NOT_FOUND
        cancel = gateway_pb2.CancelRequest(session_id=session_id)
        assert await code_of(running.stub.Cancel(cancel, metadata=theirs)) is Code.NOT_FOUND
        resume = gateway_pb2.ResumeRequest(session_id=session_id)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.Resume(resume, metadata=theirs).read()
        assert caught.value.code() is Code.NOT_FOUND
        assert (await running.stub.GetSession(get, metadata=mine)).finished.answer == "42"


async def test_who_has_used_its_tokens_is_told_when_to_come_again(path: Path) -> None:
    secret = added(path, "ci", Limits(tokens_per_minute=1))
    async with gateway(keys=path) as running:
        told = await running.reason(key=secret)
        totals = told[-1].finished.totals
        used = totals.draft.committed_tokens + totals.target.committed_tokens
        async with dreamr.AsyncClient(running.address, api_key=secret) as client:
            with pytest.raises(dreamr.OverloadedError, match="1 a minute") as caught:
                await client.ask("what ?", images=[request().images[0].data])
        # One token in a minute; a little of it has passed.
        assert caught.value.retry_after is not None
        assert used * 60 - 30 < caught.value.retry_after <= used * 60


async def test_a_callers_own_limit_is_not_the_others(path: Path) -> None:
    one, two = added(path, "one", Limits(max_sessions=1)), added(path, "two")
    parts = FakeServices(target_delay=30, failures={"Draft": [Code.INTERNAL] * 9})
    async with gateway(parts, keys=path, max_waiting=0) as running:
        call = running.stub.Reason(request(), metadata=bearing(one))
        await call.read()
        assert (await refused(running, key=one)).code() is Code.RESOURCE_EXHAUSTED
        other = running.stub.Reason(request(), metadata=bearing(two))
        assert await begun(other)
        call.cancel()
        other.cancel()


async def left(running: Gateway, key: str, request_id: str = "") -> str:
    """A session whose client has gone and that nobody holds any more."""
    call = running.stub.Reason(request(request_id=request_id), metadata=bearing(key))
    session_id = await begun(call)
    call.cancel()
    await let_go(running.store, session_id)
    assert (await standing(running, session_id, key)).status == Standing.SESSION_STATUS_RUNNING
    return session_id


async def standing(running: Gateway, session_id: str, key: str) -> gateway_pb2.GetSessionResponse:
    asked = gateway_pb2.GetSessionRequest(session_id=session_id)
    return await running.stub.GetSession(asked, metadata=bearing(key))


async def test_a_caller_leaves_no_more_in_the_store_than_it_may(path: Path) -> None:
    one, two = added(path, "one", Limits(max_left_bytes=0)), added(path, "two")
    async with gateway(busy(), keys=path) as running:
        others = [await left(running, two) for _ in range(3)]
        first, second = await left(running, one), await left(running, one)
        # Room is made when another one begins.
        assert (await standing(running, first, one)).status == Standing.SESSION_STATUS_RUNNING
        await left(running, one)
        assert (await standing(running, first, one)).status == Standing.SESSION_STATUS_CANCELLED
        assert (await standing(running, second, one)).status == Standing.SESSION_STATUS_RUNNING
        for other in others:
            assert (await standing(running, other, two)).status == Standing.SESSION_STATUS_RUNNING


async def test_who_asks_once_more_for_what_it_has_left_gets_it(path: Path) -> None:
    key = added(path, "one", Limits(max_left_bytes=0))
    async with gateway(busy(), keys=path) as running:
        first = await left(running, key, "the same")
        await left(running, key)
        assert await left(running, key, "the same") == first


class SlowStore(MemoryStore):
    """Its client leaves while the answer is stored."""

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        await asyncio.sleep(0.2)
        return await super().end(session_id, fence, status, outcome)


async def test_a_session_that_has_its_answer_is_not_left_however_its_client_goes(path: Path) -> None:
    key = added(path, "one", Limits(max_left_bytes=0))
    parts = busy()
    async with gateway(parts, keys=path, store=SlowStore(60)) as running:
        kept = await left(running, key)
        parts.target_delay = 0.001
        for _ in range(3):
            call = running.stub.Reason(request(), metadata=bearing(key))
            happened: Any = await call.read()
            while not happened.HasField("finished"):
                happened = await call.read()
            call.cancel()
        assert (await standing(running, kept, key)).status == Standing.SESSION_STATUS_RUNNING


async def test_no_caller_holds_all_calls(path: Path) -> None:
    one, two = added(path, "one"), added(path, "two")
    parts = FakeServices(target_delay=30, failures={"Draft": [Code.INTERNAL] * 9})
    async with gateway(parts, keys=path, max_calls=4) as running:
        call = running.stub.Reason(request(), metadata=bearing(one))
        session_id = await begun(call)
        resume = gateway_pb2.ResumeRequest(session_id=session_id)
        follower = running.stub.Resume(resume, metadata=bearing(one))
        await follower.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.Resume(resume, metadata=bearing(one)).read()
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        other = running.stub.Reason(request(), metadata=bearing(two))
        assert await begun(other)
        for one_call in (call, follower, other):
            one_call.cancel()


async def test_the_client_says_what_is_wrong_with_its_key(path: Path) -> None:
    secret = added(path, "ci")
    async with gateway(keys=path) as running:
        address, image = running.address, request().images[0].data
        async with dreamr.AsyncClient(address, api_key=secret) as client:
            answer = await client.ask("what ?", images=[image])
            assert answer.answer == "42"
            assert (await client.session(answer.session_id)).finished
        async with dreamr.AsyncClient(address) as stranger:
            with pytest.raises(dreamr.AuthenticationError, match="an API key is needed"):
                await stranger.ask("what ?", images=[image])


def test_half_a_file_locks_nobody_out(path: Path) -> None:
    secret = added(path, "ci")
    callers = Callers(path)
    whole = path.read_text()
    path.write_text(whole[:20])
    os.utime(path, ns=(1, 1))
    assert callers.of(bearing(secret)).name == "ci"
    path.unlink()
    assert callers.of(bearing(secret)).name == "ci"
    path.write_text(whole)
    revoke(path, "ci")
    with pytest.raises(UnauthenticatedError, match="revoked"):
        callers.of(bearing(secret))


def test_a_session_tells_whose_it_is(path: Path) -> None:
    added(path, "one", Limits(tokens_per_minute=5))
    callers = Callers(path)
    assert callers.of_session(f"{Caller('one').tag}abc").limits.tokens_per_minute == 5
    assert callers.of_session("abc").name == ""
    assert Caller().owns("abc")
    assert not Caller("one").owns("abc")
