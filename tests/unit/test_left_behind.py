"""What callers leave unfinished in the store is bounded, where they have a limit."""

from dreamr.keys import Limits
from services.gateway.callers import Caller
from services.gateway.left_behind import LeftBehind
from services.gateway.memory_store import MemoryStore
from services.gateway.store import Status, StoreError

TTL, LEASE = 100.0, 9.0


class Store(MemoryStore):
    """One that may be away."""

    away = False

    async def take_over(self, session_id: str, lease_seconds: float, owner: str) -> int:
        if self.away:
            raise StoreError("away")
        return await super().take_over(session_id, lease_seconds, owner)

    async def status(self, session_id: str) -> Status:
        found = await self.load(session_id)
        assert found
        return found.status


class Left:
    """Sessions of 10,000 bytes, with what a store needs for each; under a clock of the test's own."""

    def __init__(self, max_left_bytes: int | None = 30_000) -> None:
        self.now = 0.0
        self.store = Store(TTL)
        self.caller = Caller("ci", Limits(max_left_bytes=max_left_bytes))
        self.behind = LeftBehind(self.store, TTL, LEASE, lambda: self.now)

    async def leave(self, *names: str, held: bool = False) -> None:
        for name in names:
            await self.store.create(name, b"r", [b"image"], LEASE if held else 0, "owner")
            self.behind.add(self.caller, name, 10_000)

    async def running(self) -> list[str]:
        await self.behind.trim(self.caller)
        return [name for name in "abc" if await self.store.status(name) is Status.RUNNING]


async def test_beyond_the_limit_the_first_is_cancelled() -> None:
    left = Left()
    await left.leave("a", "b")
    await left.behind.trim(left.caller)
    await left.leave("c")
    assert await left.running() == ["b", "c"]
    await left.store.close()


async def test_the_last_one_stays_however_large() -> None:
    left = Left(0)
    await left.leave("a", "b", "c")
    assert await left.running() == ["c"]
    await left.store.close()


async def test_a_session_that_was_taken_up_again_counts_no_more() -> None:
    left = Left()
    await left.leave("a", "b", "c")
    left.behind.remove(left.caller, "b")
    assert await left.running() == ["a", "b", "c"]
    await left.store.close()


async def test_one_that_is_left_again_is_the_last() -> None:
    left = Left()
    await left.leave("a", "b", "c")
    left.behind.add(left.caller, "a", 10_000)
    assert await left.running() == ["a", "c"]
    await left.store.close()


async def test_what_another_gateway_works_on_is_let_be() -> None:
    left = Left()
    await left.leave("a", held=True)
    await left.leave("b", "c")
    assert await left.running() == ["a", "b", "c"]
    await left.store.close()


async def test_what_the_store_has_forgotten_itself_counts_no_more() -> None:
    left = Left()
    await left.leave("a")
    left.now = TTL
    await left.leave("b", "c")
    assert await left.running() == ["a", "b", "c"]
    await left.store.close()


async def test_with_the_store_away_it_is_done_another_time() -> None:
    left = Left()
    await left.leave("a", "b", "c")
    left.store.away = True
    assert await left.running() == ["a", "b", "c"]
    left.store.away = False
    assert await left.running() == ["b", "c"]
    await left.store.close()


async def test_callers_without_a_limit_leave_what_they_like() -> None:
    left = Left(None)
    await left.leave("a", "b", "c")
    assert await left.running() == ["a", "b", "c"]
    await left.store.close()
