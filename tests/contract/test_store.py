"""What every session store must do; real Redis where it is installed."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis

from services.gateway.asyncio_redis_store import AsyncioRedisStore, UnsupportedUrlError
from services.gateway.memory_store import MemoryStore
from services.gateway.redis_store import RedisStore
from services.gateway.store import Appended, Hold, Status, Store, StoreError

LEASE = 30.0
REDIS = shutil.which("redis-server") or shutil.which("redis-server", path=str(Path(sys.executable).parent))


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    if REDIS is None:
        pytest.skip("redis-server is not installed (Debian: redis-tools)")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [REDIS, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"eady to accept" not in (line := process.stdout.readline()):
            assert line, "redis-server ended while starting"
        yield f"redis://127.0.0.1:{port}/0"
        process.terminate()
        process.communicate(timeout=10)


Make = Callable[[], Store]
Client = type[RedisStore] | type[AsyncioRedisStore]


CLIENTS: dict[str, Client] = {
    "redis-py": RedisStore,
    "asyncio-redis": AsyncioRedisStore,
}


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Client:
    return CLIENTS[request.param]


@pytest.fixture(params=["memory", *CLIENTS])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "memory":
        return lambda: MemoryStore(ttl_seconds=60)
    url: str = request.getfixturevalue("redis_url")
    return lambda: CLIENTS[request.param](url, ttl_seconds=60)


@pytest.fixture
async def store(make: Make) -> AsyncIterator[Store]:
    made = make()
    yield made
    await made.close()


async def test_steps_are_appended_in_order(store: Store) -> None:
    fence = await store.create("s", b"request", [b"A", b"B", b"A"], LEASE)
    assert await store.append("s", fence, 0, b"a") is Appended.DONE
    assert await store.append("s", fence, 1, b"b") is Appended.DONE
    stored = await store.load("s")
    assert stored is not None
    assert stored.request == b"request"
    assert stored.steps == (b"a", b"b")
    assert stored.images == (b"A", b"B", b"A")
    assert stored.status is Status.RUNNING


async def test_a_repeat_is_harmless_and_a_wrong_index_changes_nothing(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE)
    await store.append("s", fence, 0, b"a")
    assert await store.append("s", fence, 0, b"a") is Appended.REPEATED
    assert await store.append("s", fence, 0, b"other") is Appended.WRONG_INDEX
    assert await store.append("s", fence, 2, b"c") is Appended.WRONG_INDEX
    stored = await store.load("s")
    assert stored is not None
    assert stored.steps == (b"a",)


async def test_a_stale_fence_changes_nothing(store: Store) -> None:
    old = await store.create("s", b"r", (), 0)
    new = await store.take_over("s", LEASE)
    assert new > old
    assert await store.append("s", old, 0, b"a") is Appended.STALE_FENCE
    assert not await store.end("s", old, Status.FAILED)
    assert await store.append("s", new, 0, b"b") is Appended.DONE


async def test_the_end_is_kept(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE)
    assert await store.end("s", fence, Status.FINISHED, b"outcome")
    stored = await store.load("s")
    assert stored is not None
    assert (stored.status, stored.outcome) == (Status.FINISHED, b"outcome")


async def test_what_has_ended_takes_no_more(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE)
    await store.end("s", fence, Status.CANCELLED)
    assert await store.append("s", fence, 0, b"a") is Appended.ENDED


async def test_an_id_is_given_once(store: Store) -> None:
    assert await store.create("s", b"first", [b"A"], LEASE) > 0
    assert await store.create("s", b"second", [b"B"], LEASE) == 0
    stored = await store.load("s")
    assert stored is not None
    assert (stored.request, stored.images) == (b"first", (b"A",))


async def test_while_it_is_held_nobody_takes_a_session_over(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE)
    assert await store.take_over("s", LEASE) == 0
    assert await store.renew("s", fence, 0.05) is Hold.OURS
    stored = await store.load("s")
    assert stored is not None
    assert stored.held
    await asyncio.sleep(0.06)
    stored = await store.load("s")
    assert stored is not None
    assert not stored.held
    # A holder that comes late but first goes on.
    assert await store.renew("s", fence, 0) is Hold.OURS
    new = await store.take_over("s", LEASE)
    assert new > fence
    assert await store.renew("s", fence, LEASE) is Hold.TAKEN
    assert await store.renew("s", new, LEASE) is Hold.OURS
    assert await store.take_over("s", LEASE) == 0


async def test_one_of_many_takes_a_session_over(store: Store) -> None:
    first = await store.create("s", b"r", (), 0)
    fences = await asyncio.gather(*(store.take_over("s", LEASE) for _ in range(20)))
    assert sorted(fences) == [0] * 19 + [first + 1]


async def test_whoever_cancels_a_session_its_holder_hears_of_it(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE)
    assert await store.cancel("s")
    assert await store.renew("s", fence, LEASE) is Hold.CANCELLED
    assert await store.append("s", fence, 0, b"a") is Appended.ENDED
    assert await store.take_over("s", LEASE) == 0
    assert not await store.end("s", fence, Status.FINISHED)
    assert not await store.cancel("s")


async def test_what_a_reader_has_is_not_read_again(store: Store) -> None:
    fence = await store.create("s", b"r", (), LEASE)
    for index, step in enumerate((b"a", b"b", b"c")):
        await store.append("s", fence, index, step)
    for first, steps in ((1, (b"b", b"c")), (3, ()), (9, ())):
        stored = await store.load("s", first)
        assert stored is not None
        assert (stored.first, stored.steps) == (first, steps)


async def test_images_come_where_they_are_wanted(store: Store) -> None:
    fence = await store.create("s", b"r", [b"A", b"B"], LEASE)
    await store.append("s", fence, 0, b"a")
    stored = await store.load("s", with_images=False)
    assert stored is not None
    assert (stored.images, stored.steps) == ((), (b"a",))


async def test_unknown_sessions(store: Store) -> None:
    assert await store.load("none") is None
    assert await store.take_over("none", LEASE) == 0
    assert await store.renew("none", 1, LEASE) is Hold.NO_SESSION
    assert not await store.cancel("none")
    assert await store.append("none", 1, 0, b"a") is Appended.NO_SESSION
    assert not await store.end("none", 1, Status.FAILED)


async def test_two_owners_never_mix(store: Store) -> None:
    """Many appends at once under two fences: only the newer one's steps stand."""
    old = await store.create("s", b"r", (), 0)
    new = await store.take_over("s", LEASE)
    await asyncio.gather(*(store.append("s", fence, 0, b"%d" % fence) for fence in (old, new) * 10))
    stored = await store.load("s")
    assert stored is not None
    assert stored.steps == (b"%d" % new,)


async def test_memory_forgets_what_ended_first_when_it_is_full() -> None:
    store = MemoryStore(ttl_seconds=60, max_bytes=250)
    for name in ("a", "b", "c"):
        fence = await store.create(name, b"", [bytes(100)], LEASE)
        await store.end(name, fence, Status.FINISHED)
    running = await store.create("running", b"", [bytes(1000)], LEASE)
    assert [await store.load(name) is not None for name in ("a", "b", "c", "running")] == [
        *(False, True, True, True),
    ]
    assert await store.append("running", running, 0, b"x") is Appended.DONE
    await store.close()


async def test_a_stopped_redis_holds_an_append_up_for_one_timeout_only(
    redis_url: str, client: Client
) -> None:
    store = client(redis_url, ttl_seconds=60, timeout_seconds=0.3)
    fence = await store.create("s", b"r", (), LEASE)
    other = redis.Redis.from_url(redis_url)
    pid = int(other.info("server")["process_id"])
    other.close()
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(1.0):
            with pytest.raises(StoreError):
                await store.append("s", fence, 0, b"a")
    finally:
        os.kill(pid, signal.SIGCONT)
    await store.close()


async def test_a_connection_that_redis_dropped_is_replaced(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    other = RedisStore(redis_url, ttl_seconds=60)
    fence = await store.create("s", b"r", (), LEASE)
    await other._redis.client_kill_filter(_type="normal", skipme=True)
    assert await store.append("s", fence, 0, b"a") is Appended.DONE
    await store.close()
    await other.close()


async def test_everything_of_a_session_lives_as_long(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    fence = await store.create("s", b"r", [b"image"], LEASE)
    await store.append("s", fence, 0, b"a")
    keys = await store._redis.keys("dreamr:*")
    assert len(keys) == 3
    for change in (
        store.append("s", fence, 1, b"b"),
        store.renew("s", fence, LEASE),
        store.end("s", fence, Status.FINISHED),
    ):
        for key in keys:
            await store._redis.expire(key, 5)
        await change
        assert [await store._redis.ttl(key) for key in keys] == [60, 60, 60]
    await store.close()


async def test_more_callers_than_connections_wait_their_turn(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    await asyncio.gather(*(store.create(f"{number}", b"r", (), LEASE) for number in range(200)))
    await store.close()


async def test_a_redis_that_forgot_its_scripts_is_told_them_again(redis_url: str, client: Client) -> None:
    store = client(redis_url, ttl_seconds=60)
    fence = await store.create("s", b"r", (), LEASE)
    other = redis.Redis.from_url(redis_url)
    other.script_flush()
    other.close()
    assert await store.append("s", fence, 0, b"a") is Appended.DONE
    await store.close()


async def test_fences_from_before_a_redis_lost_everything_stay_stale(redis_url: str, client: Client) -> None:
    store = client(redis_url, ttl_seconds=60)
    first = await store.create("s", b"r", (), 0)
    second = await store.take_over("s", LEASE)
    other = redis.Redis.from_url(redis_url)
    other.flushall()
    other.close()
    anew = await store.create("s", b"r", (), LEASE)
    assert anew > second > first
    for stale in (first, second):
        assert await store.append("s", stale, 0, b"a") is Appended.STALE_FENCE
    await store.close()


@pytest.mark.parametrize(
    ("url", "lacks"),
    [
        ("rediss://h", "TLS"),
        ("unix:///tmp/r", "sockets"),
        ("redis://me:secret@h", "users"),
        ("redis://h?socket_timeout=1", "options"),
        ("redis+sentinel://h", "sentinel"),
    ],
)
async def test_what_asyncio_redis_lacks_is_refused(url: str, lacks: str) -> None:
    with pytest.raises(UnsupportedUrlError, match=lacks):
        AsyncioRedisStore(url, ttl_seconds=60)


async def test_redis_away_fails_soon(client: Client) -> None:
    store = client("redis://127.0.0.1:1/0", ttl_seconds=60, timeout_seconds=0.5)
    async with asyncio.timeout(5):
        with pytest.raises(StoreError):
            await store.create("s", b"r", (), LEASE)
    await store.close()


async def test_who_is_cancelled_while_the_store_works_is_cancelled(make: Make) -> None:
    """A handler that lost its cancellation would live on, and keep its place."""
    store = make()
    await store.create("s", b"request", [], LEASE)

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
