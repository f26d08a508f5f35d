"""Which replica a call asks: the session's own, unless that is crowded."""

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from math import ceil

import grpc
import pytest

from services.gateway.replica import Replica
from services.gateway.replicas import _FREE as FREE
from services.gateway.replicas import Replicas

SESSIONS = [f"session {number}" for number in range(400)]


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[Replicas[object]]:
    addresses = ",".join(f"127.0.0.1:{port}" for port in range(1, count + 1))
    found: Replicas[object] = Replicas(addresses, lambda channel: object())
    yield found
    await found.close()


def names(order: list[Replica[object]]) -> list[str]:
    return [replica.address for replica in order]


async def test_a_session_keeps_its_replica_as_others_come() -> None:
    async with replicas(4) as few, replicas(5) as more:
        moved = 0
        for session in SESSIONS:
            before, after = names(few.order(session)), names(more.order(session))
            assert [name for name in after if name in before] == before
            moved += before[0] != after[0]
        assert moved == pytest.approx(len(SESSIONS) / 5, rel=0.3)
        firsts = Counter(names(few.order(session))[0] for session in SESSIONS)
        assert min(firsts.values()) > len(SESSIONS) / 4 * 0.7


async def test_each_lane_begins_at_another_replica() -> None:
    async with replicas(3) as found:
        order = names(found.order("a"))
        assert names(found.order("a", lane=1)) == [*order[1:], order[0]]
        assert names(found.order("a", lane=3)) == order


@pytest.mark.parametrize("count", [1, 2, 3, 8])
async def test_no_replica_has_more_than_its_share_and_a_quarter(count: int) -> None:
    async with replicas(count) as found:
        with ExitStack() as calls:
            for made in range(1, 101):
                # All of one session, which would go to one replica otherwise.
                calls.enter_context(found.order("a")[0].call())
                under_way = [replica.calls for replica in found.order("a")]
                assert sum(under_way) == made
                assert max(under_way) <= max(FREE, ceil(1.25 * made / count))


async def test_a_crowded_replica_is_asked_again_when_its_calls_have_ended() -> None:
    async with replicas(2) as found:
        own, other = found.order("a")
        with ExitStack() as calls:
            for _ in range(FREE):
                # What one session asks for by itself crowds no replica.
                assert found.order("a") == [own, other]
                calls.enter_context(own.call())
            assert found.order("a") == [other, own]
            for _ in range(3):
                calls.enter_context(other.call())
            # Of eight calls a replica may have five.
            assert found.order("a") == [own, other]


async def test_a_replica_that_cannot_be_reached_is_asked_last_and_draws_no_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with replicas(2) as found:
        own, other = found.order("a")
        with pytest.raises(grpc.aio.AioRpcError), own.call():
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        with ExitStack() as calls:
            for _ in range(20):
                calls.enter_context(other.call())
                assert found.order("a") == [other, own]
        later = time.monotonic() + 60
        monkeypatch.setattr(time, "monotonic", lambda: later)
        assert found.order("a") == [own, other]


async def test_a_call_that_fails_is_counted_no_longer() -> None:
    async with replicas(1) as found:
        (only,) = found.order("a")
        try:
            with only.call():
                assert only.calls == 1
                raise ConnectionError
        except ConnectionError:
            assert only.calls == 0
