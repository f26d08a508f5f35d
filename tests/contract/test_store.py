"""What every session store must do; real Redis where it is installed."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from services.gateway import memory_store, scripted_store
from services.gateway.asyncio_redis_store import AsyncioRedisStore
from services.gateway.memory_store import MemoryStore
from services.gateway.redis_store import RedisStore
from services.gateway.store import Appended, Hold, Status, Store, content_names
from tests.contract.redis_servers import LAYOUTS, LEAVES_SOCKETS, Servers, started

pytestmark = LEAVES_SOCKETS

LEASE = 30.0
OWNER = "owner"

Make = Callable[[], Store]

CLIENTS = {"redis-py": RedisStore, "asyncio-redis": AsyncioRedisStore}
STORES = ["memory", "asyncio-redis alone", *(f"redis-py {layout}" for layout in LAYOUTS)]


# Once for all tests with the same servers; each begins with none of their sessions.
@pytest.fixture(scope="module", params=STORES)
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    if request.param == "memory":
        yield lambda: MemoryStore(ttl_seconds=60)
        return
    client, layout = request.param.split()
    for servers in started(LAYOUTS[layout], tmp_path_factory.mktemp(layout)):

        def made(servers: Servers = servers) -> Store:
            servers.flush()
            return CLIENTS[client](servers.url, ttl_seconds=60, timeout_seconds=10)

        yield made


@pytest.fixture
async def store(make: Make) -> AsyncIterator[Store]:
    made = make()
    yield made
    await made.close()


async def test_steps_are_appended_in_order(store: Store) -> None:
    fence = await store.create("s", b"request", [b"A", b"B", b"A"], LEASE, OWNER, "origin")
    assert await store.append("s", fence, 0, b"a") is Appended.DONE
    assert await store.append("s", fence, 1, b"b") is Appended.DONE
    stored = await store.load("s")
    assert stored is not None
    assert (stored.request, stored.origin) == (b"request", "origin")
    assert stored.steps == (b"a", b"b")
    assert stored.images == (b"A", b"B", b"A")
    assert stored.status is Status.RUNNING


async def test_a_repeat_is_harmless_and_a_wrong_index_changes_nothing(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    await store.append("s", fence, 0, b"a")
    assert await store.append("s", fence, 0, b"a") is Appended.REPEATED
    assert await store.append("s", fence, 0, b"other") is Appended.WRONG_INDEX
    assert await store.append("s", fence, 2, b"c") is Appended.WRONG_INDEX
    stored = await store.load("s")
    assert stored is not None
    assert stored.steps == (b"a",)


async def test_a_stale_fence_changes_nothing(store: Store) -> None:
    old = await store.create("s", b"r", (), 0, OWNER)
    new = await store.take_over("s", LEASE, uuid.uuid4().hex)
    assert new > old
    assert await store.append("s", old, 0, b"a") is Appended.STALE_FENCE
    assert not await store.end("s", old, Status.FAILED)
    assert await store.append("s", new, 0, b"b") is Appended.DONE


async def test_the_end_is_kept(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    assert await store.end("s", fence, Status.FINISHED, b"outcome")
    stored = await store.load("s")
    assert stored is not None
    assert (stored.status, stored.outcome) == (Status.FINISHED, b"outcome")


async def test_what_has_ended_takes_no_more(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    await store.end("s", fence, Status.CANCELLED)
    assert await store.append("s", fence, 0, b"a") is Appended.ENDED


async def test_who_has_not_heard_of_it_may_ask_again(store: Store) -> None:
    fence = await store.create("s", b"r", [b"A"], LEASE, OWNER)
    assert await store.create("s", b"r", [b"A"], LEASE, OWNER) == fence
    await store.append("s", fence, 0, b"a")
    assert await store.create("s", b"r", [b"A"], LEASE, OWNER) == fence
    await store.renew("s", fence, 0)
    new = await store.take_over("s", LEASE, "other")
    assert new > fence
    assert await store.take_over("s", LEASE, "other") == new
    assert await store.take_over("s", LEASE, "third") == 0
    assert await store.create("s", b"r", [b"A"], LEASE, OWNER) == 0
    stored = await store.load("s")
    assert stored is not None
    assert (stored.steps, stored.takeovers, stored.fence) == ((b"a",), 1, new)


async def test_take_overs_count_until_there_is_a_step(store: Store) -> None:
    await store.create("s", b"r", (), 0, OWNER)
    for _ in range(3):
        fence = await store.take_over("s", 0, uuid.uuid4().hex)
    stored = await store.load("s")
    assert stored is not None
    assert stored.takeovers == 3
    await store.append("s", fence, 0, b"a")
    stored = await store.load("s")
    assert stored is not None
    assert stored.takeovers == 0


@pytest.mark.parametrize("how", ["end", "cancel"])
async def test_images_go_with_the_end_and_their_names_stay(store: Store, how: str) -> None:
    fence = await store.create("s", b"r", [b"A", b"B", b"A"], LEASE, OWNER)
    if how == "end":
        assert await store.end("s", fence, Status.FINISHED)
    else:
        assert await store.cancel("s")
    stored = await store.load("s")
    assert stored is not None
    assert stored.images == ()
    assert list(stored.image_names) == content_names([b"A", b"B", b"A"])


async def test_an_id_is_given_once(store: Store) -> None:
    assert await store.create("s", b"first", [b"A"], LEASE, OWNER) > 0
    assert await store.create("s", b"second", [b"B"], LEASE, "other") == 0
    stored = await store.load("s")
    assert stored is not None
    assert (stored.request, stored.images) == (b"first", (b"A",))


async def test_while_it_is_held_nobody_takes_a_session_over(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    assert await store.take_over("s", LEASE, uuid.uuid4().hex) == 0
    assert await store.renew("s", fence, LEASE) is Hold.OURS
    stored = await store.load("s")
    assert stored is not None
    assert stored.held
    assert await store.renew("s", fence, 0.05) is Hold.OURS
    await asyncio.sleep(0.06)
    stored = await store.load("s")
    assert stored is not None
    assert not stored.held
    # A holder that comes late but first goes on.
    assert await store.renew("s", fence, 0) is Hold.OURS
    new = await store.take_over("s", LEASE, uuid.uuid4().hex)
    assert new > fence
    assert await store.renew("s", fence, LEASE) is Hold.TAKEN
    assert await store.renew("s", new, LEASE) is Hold.OURS
    assert await store.take_over("s", LEASE, uuid.uuid4().hex) == 0


async def test_one_of_many_takes_a_session_over(store: Store) -> None:
    first = await store.create("s", b"r", (), 0, OWNER)
    fences = await asyncio.gather(*(store.take_over("s", LEASE, uuid.uuid4().hex) for _ in range(20)))
    assert sorted(fences) == [0] * 19 + [first + 1]


async def test_whoever_cancels_a_session_its_holder_hears_of_it(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    assert await store.cancel("s")
    assert await store.renew("s", fence, LEASE) is Hold.CANCELLED
    assert await store.append("s", fence, 0, b"a") is Appended.ENDED
    assert await store.take_over("s", LEASE, uuid.uuid4().hex) == 0
    assert not await store.end("s", fence, Status.FINISHED)
    assert not await store.cancel("s")


async def test_what_a_reader_has_is_not_read_again(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    for index, step in enumerate((b"a", b"b", b"c")):
        await store.append("s", fence, index, step)
    for first, steps in ((1, (b"b", b"c")), (3, ()), (9, ())):
        stored = await store.load("s", first)
        assert stored is not None
        assert (stored.first, stored.steps) == (first, steps)


async def test_images_come_where_they_are_wanted(store: Store) -> None:
    fence = await store.create("s", b"r", [b"A", b"B"], LEASE, OWNER)
    await store.append("s", fence, 0, b"a")
    stored = await store.load("s", with_images=False)
    assert stored is not None
    assert (stored.images, stored.steps) == ((), (b"a",))


async def test_unknown_sessions(store: Store) -> None:
    assert await store.load("none") is None
    assert await store.take_over("none", LEASE, uuid.uuid4().hex) == 0
    assert await store.renew("none", 1, LEASE) is Hold.NO_SESSION
    assert not await store.cancel("none")
    assert await store.append("none", 1, 0, b"a") is Appended.NO_SESSION
    assert not await store.end("none", 1, Status.FAILED)


async def test_two_owners_never_mix(store: Store) -> None:
    """Many appends at once under two fences: only the newer one's steps stand."""
    old = await store.create("s", b"r", (), 0, OWNER)
    new = await store.take_over("s", LEASE, uuid.uuid4().hex)
    await asyncio.gather(*(store.append("s", fence, 0, b"%d" % fence) for fence in (old, new) * 10))
    stored = await store.load("s")
    assert stored is not None
    assert stored.steps == (b"%d" % new,)


async def test_orphans_are_sessions_that_were_registered_and_that_nobody_holds(store: Store) -> None:
    fences = {
        name: await store.create(name, b"r", (), LEASE if name == "held" else 0, OWNER)
        for name in ("orphan", "held", "unlisted", "later", "ended", "cancelled")
    }
    for name in ("orphan", "held", "ended", "cancelled", "none"):
        await store.register(name, 0)
    await store.register("later", 0)
    await store.register("later", 60)
    await store.end("ended", fences["ended"], Status.FINISHED)
    await store.cancel("cancelled")
    assert await store.orphans(10) == ["orphan"]


async def test_an_orphan_that_nobody_took_over_is_found_again(store: Store) -> None:
    await store.register("s", 0)
    await store.create("s", b"r", (), 0, OWNER)
    assert await store.orphans(1) == ["s"]
    async with asyncio.timeout(10):
        while not (found := await store.orphans(1)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert found == ["s"]
    assert await store.take_over("s", LEASE, uuid.uuid4().hex)
    await store.register("s", 0)
    assert await store.orphans(1) == []


async def test_no_more_orphans_than_are_wanted_and_each_one_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (memory_store, scripted_store):
        monkeypatch.setattr(module, "LOOK_SECONDS", 60)
    names = {f"{number}" for number in range(40)}
    for name in names:
        await store.create(name, b"r", (), 0, OWNER)
        await store.register(name, 0)
    # What has ended hides no orphan, however much of it there is.
    for number in range(100):
        await store.register(f"gone-{number}", 0)
    found = await asyncio.gather(*(store.orphans(10) for _ in range(3)))
    assert [len(some) for some in found] == [10, 10, 10]
    rest = await store.orphans(100)
    assert {name for some in (*found, rest) for name in some} == names
    assert sum(map(len, found)) + len(rest) == 40
    assert await store.orphans(100) == []


async def test_memory_forgets_what_ended_first_when_it_is_full() -> None:
    store = MemoryStore(ttl_seconds=60, max_bytes=250)
    for name in ("a", "b", "c"):
        fence = await store.create(name, bytes(100), [bytes(100)], LEASE, OWNER)
        await store.end(name, fence, Status.FINISHED)
    running = await store.create("running", b"", [bytes(1000)], LEASE, OWNER)
    assert [await store.load(name) is not None for name in ("a", "b", "c", "running")] == [
        *(False, True, True, True),
    ]
    assert await store.append("running", running, 0, b"x") is Appended.DONE
    await store.close()


async def test_who_is_cancelled_while_the_store_works_is_cancelled(make: Make) -> None:
    """A handler that lost its cancellation would live on, and keep its place."""
    store = make()
    await store.create("s", b"request", [], LEASE, OWNER)

    async def ask() -> None:
        while True:
            await store.load("s")
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        for turns in range(400):
            asking = asyncio.create_task(ask())
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking], timeout=5)
            assert asking.cancelled()
    await store.close()
