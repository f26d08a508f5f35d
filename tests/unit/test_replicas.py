"""Which replica a call asks: the session's own, unless that is crowded."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from math import ceil

import pytest

from services.gateway.replicas import Replica, Replicas

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
                assert max(under_way) <= ceil(1.25 * made / count)


async def test_a_crowded_replica_is_asked_again_when_its_calls_have_ended() -> None:
    async with replicas(2) as found:
        own, other = found.order("a")
        with own.call(), own.call():
            # A third one would be above the bound of ceil(1.25 * 3 / 2) = 2.
            assert found.order("a") == [other, own]
            with other.call():
                # Of four calls a replica may have three.
                assert found.order("a") == [own, other]
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
