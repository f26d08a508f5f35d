"""A session appends under its fence, goes on without its store, and notices when it is somebody else's."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from dreamr.v1 import gateway_pb2
from services.common.errors import ServiceError, SessionCancelledError, UnavailableError
from services.gateway.memory_store import MemoryStore
from services.gateway.sessions import Session
from services.gateway.store import Status, StoredSession, StoreError

LEASE = 0.3
REQUEST = gateway_pb2.ReasonRequest(question="what ?").SerializeToString()
BACKGROUND = gateway_pb2.ReasonRequest(question="what ?", background=True).SerializeToString()


class Store(MemoryStore):
    """Memory that counts as durable, and can be away."""

    durable = True
    away = False
    registered: list[float]

    def __init__(self) -> None:
        super().__init__(ttl_seconds=60)
        self.registered = []

    async def register(self, session_id: str, seconds: float) -> None:
        self._check()
        self.registered.append(seconds)
        await super().register(session_id, seconds)

    async def create(self, *arguments: object) -> int:
        self._check()
        return await super().create(*arguments)  # type: ignore[arg-type]

    async def append(self, *arguments: object):  # type: ignore[no-untyped-def]
        self._check()
        return await super().append(*arguments)  # type: ignore[arg-type]

    async def end(self, *arguments: object):  # type: ignore[no-untyped-def]
        self._check()
        return await super().end(*arguments)  # type: ignore[arg-type]

    async def renew(self, *arguments: object):  # type: ignore[no-untyped-def]
        self._check()
        return await super().renew(*arguments)  # type: ignore[arg-type]

    def _check(self) -> None:
        if self.away:
            raise StoreError("away")


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store()
    yield made
    await made.close()


async def opened(store: Store, name: str = "s") -> Session:
    session = await Session.open(store, name, REQUEST, [b"image"], LEASE)
    assert session
    return session


async def stored(store: Store, name: str = "s") -> StoredSession:
    found = await store.load(name)
    assert found
    return found


def commit(index: int) -> gateway_pb2.Commit:
    return gateway_pb2.Commit(index=index)


class Keeping:
    """Renews in the background, and remembers why the session was lost."""

    def __init__(self, session: Session) -> None:
        self.lost: list[ServiceError] = []
        self._task = asyncio.create_task(session.keep(self.lost.append))

    async def __aenter__(self) -> "Keeping":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


async def test_the_request_and_the_images_are_stored(store: Store) -> None:
    await opened(store)
    found = await stored(store)
    assert (found.request, found.images, found.status, found.held) == (
        *(REQUEST, (b"image",), Status.RUNNING, True),
    )


async def test_the_same_request_id_is_the_same_session(store: Store) -> None:
    assert Session.id_of("a") == Session.id_of("a") != Session.id_of("b")
    assert Session.id_of("") != Session.id_of("")
    await opened(store)
    assert await Session.open(store, "s", REQUEST, (), LEASE) is None


async def test_a_session_that_is_kept_is_nobody_elses(store: Store) -> None:
    session = await opened(store)
    async with Keeping(session) as keeping:
        await asyncio.sleep(LEASE * 2)
        assert await Session.take_over(store, "s", LEASE) is None
        assert not keeping.lost


async def test_one_that_is_not_kept_is_taken_over_with_its_steps(store: Store) -> None:
    session = await opened(store)
    assert await session.append(commit(0))
    await asyncio.sleep(LEASE * 1.1)
    taken = await Session.take_over(store, "s", LEASE)
    assert taken
    other, found = taken
    assert (other.committed, other.stored, len(found.steps)) == (1, 1, 1)
    assert await other.append(commit(1))
    # Of the first holder nothing is stored any more, and nothing must be told.
    assert not await session.append(commit(1))
    async with Keeping(session) as keeping:
        await asyncio.sleep(LEASE)
        assert isinstance(keeping.lost[0], UnavailableError)
    await session.end(Status.FINISHED)
    found = await stored(store)
    assert (len(found.steps), found.status) == (2, Status.RUNNING)


async def test_one_that_is_let_go_of_is_taken_over_at_once(store: Store) -> None:
    session = await opened(store)
    await session.append(commit(0))
    await session.release()
    assert await Session.take_over(store, "s", LEASE)


async def test_its_holder_hears_of_a_cancel(store: Store) -> None:
    session = await opened(store)
    async with Keeping(session) as keeping:
        await store.cancel("s")
        await asyncio.sleep(LEASE)
        assert isinstance(keeping.lost[0], SessionCancelledError)
    assert not await session.append(commit(0))


async def test_what_a_store_has_missed_is_written_back(store: Store) -> None:
    session = await opened(store)
    await session.append(commit(0))
    store.away = True
    assert await session.append(commit(1))
    assert await session.append(commit(2))
    assert session.away == "away"
    assert (session.committed, session.stored) == (3, 1)
    async with Keeping(session):
        store.away = False
        await asyncio.sleep(LEASE)
    assert session.durable
    assert len((await stored(store)).steps) == 3


async def test_a_session_born_without_its_store_is_stored_when_that_is_there(store: Store) -> None:
    store.away = True
    session = await opened(store)
    await session.append(commit(0))
    assert session.away == "away"
    store.away = False
    await session.append(commit(1))
    found = await stored(store)
    assert (len(found.steps), found.images) == (2, (b"image",))
    assert session.durable


async def test_a_store_that_comes_back_empty_is_filled_again(store: Store) -> None:
    session = await opened(store)
    await session.append(commit(0))
    store._forget("s")
    async with Keeping(session) as keeping:
        await asyncio.sleep(LEASE)
        assert not keeping.lost
    await session.append(commit(1))
    assert len((await stored(store)).steps) == 2


@pytest.mark.parametrize("told", [0, 1])
async def test_its_end_fills_a_store_that_came_back_empty(store: Store, told: int) -> None:
    session = await opened(store)
    await session.append(commit(0))
    store._forget("s")
    for index in range(1, 1 + told):
        assert await session.append(commit(index))
    assert await session.end(Status.FINISHED, gateway_pb2.Finished(answer="a"))
    found = await stored(store)
    assert (len(found.steps), found.status) == (1 + told, Status.FINISHED)


async def test_what_is_let_go_of_is_stored_before_even_where_the_store_is_away(store: Store) -> None:
    session = await opened(store)
    store.away = True
    await session.append(commit(0))
    asyncio.get_running_loop().call_later(LEASE / 3, setattr, store, "away", False)
    assert await session.release()
    taken = await Session.take_over(store, "s", LEASE)
    assert taken
    assert taken[0].committed == 1


async def test_an_end_waits_for_its_store_only_as_long_as_it_is_told_to(store: Store) -> None:
    session = await opened(store)
    store.away = True
    assert not await session.end(Status.FINISHED)
    store.away = False
    assert await session.end(Status.FINISHED, patience=LEASE)
    assert (await stored(store)).status is Status.FINISHED


async def test_whoever_took_over_while_the_store_was_away_wins(store: Store) -> None:
    session = await opened(store)
    store.away = True
    await session.append(commit(0))
    store.away = False
    await asyncio.sleep(LEASE * 1.1)
    taken = await Session.take_over(store, "s", LEASE)
    assert taken
    await taken[0].append(commit(0))
    assert not await session.append(commit(1))
    assert len((await stored(store)).steps) == 1


async def test_one_that_was_frozen_asks_again_before_it_calls_the_store_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened(store)
    await session.append(commit(0))

    async def frozen(*_: object) -> None:
        # The process stands still in the middle of a command, whose time is over when it goes on.
        monkeypatch.undo()
        await asyncio.sleep(LEASE * 1.1)
        taken = await Session.take_over(store, "s", LEASE)
        assert taken
        await taken[0].append(commit(1))
        raise StoreError("timed out")

    monkeypatch.setattr(store, "append", frozen)
    assert not await session.append(commit(1)), "its client must not hear of a step that is another's"
    assert isinstance(session.lost, UnavailableError)
    assert len((await stored(store)).steps) == 2


async def test_a_store_that_fails_within_the_lease_is_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await opened(store)
    calls = 0

    async def fails(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise StoreError("away")

    monkeypatch.setattr(store, "append", fails)
    assert await session.append(commit(0))
    assert (session.away, calls) == ("away", 1)


async def test_steps_that_a_failover_has_lost_are_written_again(store: Store) -> None:
    session = await opened(store)
    for index in range(3):
        await session.append(commit(index))
    found = store._sessions["s"]
    store._sessions["s"] = replace(found, steps=found.steps[:1])
    assert await session.append(commit(3))
    assert (await stored(store)).steps == tuple(session._steps)
    assert session.stored == 4
    # Others' steps are not written over.
    store._sessions["s"] = replace(found, steps=(b"another", *found.steps[1:2]))
    assert not await session.append(commit(4))
    assert (await stored(store)).steps == (b"another", found.steps[1])


async def test_in_the_background_it_is_looked_at_later_each_time(store: Store) -> None:
    first = await Session.open(store, "s", BACKGROUND, (), LEASE)
    assert first
    assert store.registered == [LEASE]
    async with Keeping(first):
        async with asyncio.timeout(10):
            while len(store.registered) < 3:  # noqa: ASYNC110 - done with each renewal
                await asyncio.sleep(0.01)
    for number in range(1, 4):
        await store.renew("s", number, 0)
        assert await Session.take_over(store, "s", LEASE)
    assert store.registered[-3:] == [LEASE * 2, LEASE * 4, LEASE * 8]


async def test_without_its_list_the_store_still_takes_a_session(store: Store) -> None:
    store.away = True
    assert await Session.open(store, "s", BACKGROUND, (), LEASE)
    store.away = False
    assert await Session.open(store, "other", REQUEST, (), LEASE)
    assert not store.registered, "only those in the background are listed"


async def test_one_that_the_store_took_without_a_word_stays_ours(store: Store) -> None:
    class Silent(Store):
        async def create(self, *arguments: object) -> int:
            fence = await super().create(*arguments)
            if not self.silent:
                return fence
            raise StoreError("no answer in time")

        silent = True

    silent = Silent()
    session = await opened(silent)
    assert session.away
    await session.append(commit(0))
    silent.silent = False
    await session.append(commit(1))
    assert session.lost is None
    assert session.durable
    assert len((await stored(silent)).steps) == 2
    await silent.close()


async def test_one_that_cannot_be_loaded_is_let_go_of(store: Store) -> None:
    class Broken(Store):
        broken = False

        async def load(self, *arguments: object, **options: object):  # type: ignore[no-untyped-def]
            if self.broken:
                raise StoreError("no answer in time")
            return await super().load(*arguments, **options)  # type: ignore[arg-type]

    broken = Broken()
    await (await opened(broken)).release()
    broken.broken = True
    with pytest.raises(StoreError):
        await Session.take_over(broken, "s", 60)
    broken.broken = False
    assert not (await stored(broken)).held
    await broken.close()
