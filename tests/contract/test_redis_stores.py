"""Stores on a Redis that stops, drops connections, forgets, fails over or refuses."""

import asyncio
import traceback
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import redis

from services.gateway.asyncio_redis_store import AsyncioRedisStore
from services.gateway.redis_store import RedisStore
from services.gateway.redis_url import RedisUrlError
from services.gateway.store import Appended, Status, StoreError
from tests.contract.redis_servers import (
    LAYOUTS,
    LEAVES_SOCKETS,
    PASSWORD,
    Servers,
    Start,
    alone,
    clustered,
    started,
    watched,
)

pytestmark = LEAVES_SOCKETS

LEASE = 30.0
OWNER = "owner"

Client = type[RedisStore] | type[AsyncioRedisStore]

CLIENTS: dict[str, Client] = {
    "redis-py": RedisStore,
    "asyncio-redis": AsyncioRedisStore,
}


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Servers]:
    """One that a test may harm."""
    yield from started(alone, tmp_path)


@pytest.fixture
def redis_url(own_redis: Servers) -> str:
    return own_redis.url


@pytest.fixture(params=list(CLIENTS))
def client(request: pytest.FixtureRequest) -> Client:
    return CLIENTS[request.param]


async def test_a_stopped_redis_holds_an_append_up_for_one_timeout_only(
    own_redis: Servers, client: Client
) -> None:
    store = client(own_redis.url, ttl_seconds=60, timeout_seconds=0.3)
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    own_redis.servers[0].stopped(True)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(StoreError):
                await store.append("s", fence, 0, b"a")
    finally:
        own_redis.servers[0].stopped(False)
    await store.close()


async def test_a_connection_that_redis_dropped_is_replaced(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    other = RedisStore(redis_url, ttl_seconds=60)
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    await other._redis.client_kill_filter(_type="normal", skipme=True)
    assert await store.append("s", fence, 0, b"a") is Appended.DONE
    await store.close()
    await other.close()


async def test_everything_of_a_session_lives_as_long(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    fence = await store.create("s", b"r", [b"image"], LEASE, OWNER)
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
        # The images, which an end takes away at once, leave nothing.
        assert {await store._redis.ttl(key) for key in await store._redis.keys("dreamr:*")} == {60}
    assert len(await store._redis.keys("dreamr:*")) == 2
    await store.close()


async def test_the_list_of_those_in_the_background_goes_with_them(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    await store.register("gone", 0)
    await store.register("running", 30)
    assert await store._redis.ttl("dreamr:background") == 60
    await store.orphans(1)
    assert await store._redis.zrange("dreamr:background", 0, -1) == [b"running"]
    await store.close()


async def test_more_callers_than_connections_wait_their_turn(redis_url: str) -> None:
    store = RedisStore(redis_url, ttl_seconds=60)
    await asyncio.gather(*(store.create(f"{number}", b"r", (), LEASE, OWNER) for number in range(200)))
    await store.close()


async def test_a_redis_that_forgot_its_scripts_is_told_them_again(redis_url: str, client: Client) -> None:
    store = client(redis_url, ttl_seconds=60)
    fence = await store.create("s", b"r", (), LEASE, OWNER)
    other = redis.Redis.from_url(redis_url)
    other.script_flush()
    other.close()
    assert await store.append("s", fence, 0, b"a") is Appended.DONE
    await store.close()


async def test_fences_from_before_a_redis_lost_everything_stay_stale(redis_url: str, client: Client) -> None:
    store = client(redis_url, ttl_seconds=60)
    first = await store.create("s", b"r", (), 0, OWNER)
    second = await store.take_over("s", LEASE, uuid.uuid4().hex)
    other = redis.Redis.from_url(redis_url)
    other.flushall()
    other.close()
    anew = await store.create("s", b"r", (), LEASE, OWNER)
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
        ("redis://h?client_name=me", "options"),
        ("redis+sentinel://h/sessions", "Sentinel"),
        ("redis+cluster://h", "Cluster"),
    ],
)
async def test_what_asyncio_redis_lacks_is_refused(url: str, lacks: str) -> None:
    with pytest.raises(RedisUrlError, match=lacks) as caught:
        AsyncioRedisStore(url, ttl_seconds=60)
    assert "secret" not in str(caught.value)


async def test_redis_away_fails_soon(client: Client) -> None:
    store = client("redis://127.0.0.1:1/0", ttl_seconds=60, timeout_seconds=0.5)
    async with asyncio.timeout(5):
        with pytest.raises(StoreError):
            await store.create("s", b"r", (), LEASE, OWNER)
    await store.close()


@pytest.fixture(params=["sentinel", "cluster"])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    """Servers whose first one has a replica."""
    starts: dict[str, Start] = {"sentinel": watched, "cluster": partial(clustered, replicas=1)}
    yield from started(starts[request.param], tmp_path)


async def test_a_master_that_dies_is_replaced(failing: Servers) -> None:
    store = RedisStore(failing.url, ttl_seconds=60, timeout_seconds=3)
    # In a cluster the first server has some of them.
    names = [f"{number}" for number in range(12)]
    fences = {name: await store.create(name, b"r", [b"image"], LEASE, OWNER) for name in names}
    master = failing.servers[0]
    # WAIT would say what has become of its own connection's writes.
    async with asyncio.timeout(20):
        written = master.admin.info("replication")["master_repl_offset"]
        while master.admin.info("replication")["slave0"]["offset"] < written:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    master.kill()

    async def appended(name: str) -> Appended:
        while True:
            try:
                return await store.append(name, fences[name], 0, b"a")
            except StoreError:
                await asyncio.sleep(0.05)

    async with asyncio.timeout(60):
        for name in names:
            assert await appended(name) in (Appended.DONE, Appended.REPEATED)
    for name in names:
        stored = await store.load(name)
        assert stored is not None
        assert (stored.steps, stored.images) == ((b"a",), (b"image",))
    await store.close()


@pytest.mark.parametrize("layout", ["alone", "tls", "sentinel-tls"])
async def test_a_wrong_password_is_no_secret_of_its_errors(tmp_path: Path, layout: str) -> None:
    for servers in started(LAYOUTS[layout], tmp_path):
        right, wrong = quote(PASSWORD, safe=""), "wr0ng-s3cret"
        url = servers.url.replace(right, wrong).replace("redis://", f"redis://{wrong}:{wrong}@")
        store = RedisStore(url, ttl_seconds=60)
        with pytest.raises(StoreError) as caught:
            await store.create("s", b"r", (), LEASE, OWNER)
        told = "".join(traceback.format_exception(caught.value)) + repr(store._url)
        assert wrong not in told
        await store.close()


async def test_what_a_server_repeats_is_scrubbed() -> None:
    """An old Redis tells what it was sent, where it does not know the command."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = await reader.read(4096)
        told = b"-ERR unknown command, with args beginning with: " + sent.replace(b"\r\n", b" ")
        writer.write(told + b"\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://me:s3cret@127.0.0.1:{port}", ttl_seconds=60)
        with pytest.raises(StoreError, match="unknown command") as caught:
            await store.load("s")
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
        await store.close()
