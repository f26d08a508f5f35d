"""What callers leave unfinished in the store is bounded, where they have a limit."""

import pytest

from dreamr.keys import Limits
from dreamr.v1 import gateway_pb2
from services.gateway.callers import Caller
from services.gateway.left_behind import LeftBehind
from services.gateway.memory_store import MemoryStore
from services.gateway.sessions import Session
from services.gateway.store import Status, StoreError

TTL, LEASE = 100.0, 9.0
REQUEST = gateway_pb2.ReasonRequest(question="what ?").SerializeToString()


class Store(MemoryStore):
    """One that may be away, or not be heard."""

    away: str = ""

    async def take_over(self, session_id: str, lease_seconds: float, owner: str) -> int:
        if self.away == "take_over":
            raise StoreError("away")
        return await super().take_over(session_id, lease_seconds, owner)

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        if self.away == "end":
            raise StoreError("away")
        return await super().end(session_id, fence, status, outcome)


class Left:
    """Sessions `a`, `b` and `c` with an image of 10,000 bytes each; under a clock of the test's own."""

    def __init__(self, max_left_bytes: int | None = 30_000) -> None:
        self.now = 0.0
        self.store = Store(TTL)
        self.caller = Caller("ci", Limits(max_left_bytes=max_left_bytes))
        self.behind = LeftBehind(self.store, TTL, LEASE, lambda: self.now)

    async def leave(self, *names: str, held: bool = False) -> None:
        for name in names:
            session = await Session.open(self.store, name, REQUEST, [bytes(10_000)], LEASE)
            assert session
            if not held:
                await session.release()
            self.behind.add(self.caller, session)

    async def running(self) -> str:
        """Those that run after a trim."""
        await self.behind.trim(self.caller)
        found = {name: await self.store.load(name) for name in "abc"}
        return "".join(name for name, one in found.items() if one and one.status is Status.RUNNING)


async def test_beyond_the_limit_the_first_is_cancelled() -> None:
    left = Left()
    await left.leave("a", "b")
    assert await left.running() == "ab"
    await left.leave("c")
    assert await left.running() == "bc"
    await left.store.close()


async def test_the_last_one_stays_however_large() -> None:
    left = Left(0)
    await left.leave("a", "b", "c")
    assert await left.running() == "c"
    await left.store.close()


async def test_a_session_that_was_taken_up_again_counts_no_more() -> None:
    left = Left()
    await left.leave("a", "b", "c")
    left.behind.remove(left.caller, "b")
    assert await left.running() == "abc"
    await left.store.close()


async def test_one_that_is_left_again_is_the_last_and_counts_once() -> None:
    left = Left()
    await left.leave("a", "b")
    taken = await Session.take_over(left.store, "a", LEASE)
    assert taken
    left.behind.add(left.caller, taken[0])
    assert await left.running() == "ab"
    await taken[0].release()
    await left.leave("c")
    assert await left.running() == "ac"
    await left.store.close()


async def test_one_that_somebody_asks_for_is_spared() -> None:
    left = Left()
    await left.leave("a", "b", "c")
    with left.behind.spared("a"):
        assert await left.running() == "ac"
    await left.store.close()


async def test_what_another_gateway_works_on_is_let_be() -> None:
    left = Left()
    await left.leave("a", held=True)
    await left.leave("b", "c")
    assert await left.running() == "abc"
    await left.store.close()


async def test_what_the_store_has_forgotten_itself_counts_no_more() -> None:
    left = Left()
    await left.leave("a")
    left.now = TTL
    await left.leave("b", "c")
    assert await left.running() == "abc"
    await left.store.close()


@pytest.mark.parametrize("call", ["take_over", "end"])
async def test_with_the_store_away_it_is_done_another_time(call: str) -> None:
    left = Left()
    await left.leave("a", "b", "c")
    left.store.away = call
    assert await left.running() == "abc"
    left.store.away = ""
    assert await left.running() == "bc"
    await left.store.close()


async def test_callers_without_a_limit_leave_what_they_like() -> None:
    left = Left(None)
    await left.leave("a", "b", "c")
    assert await left.running() == "abc"
    await left.store.close()
