"""Which replicas a pool has and uses: real servers that come, go, drain, fail and fall silent."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

import grpc
import pytest
from prometheus_client import REGISTRY

from dreamr.cluster.ports import free_port
from dreamr.v1 import draft_pb2, draft_pb2_grpc
from services.common.errors import UnavailableError
from services.gateway import replica as replica_module
from services.gateway.replica import Replica
from services.gateway.replicas import Replicas
from tests.unit.fake_services import FakeServices
from tests.unit.names import Names
from tests.unit.worker import Worker, worker

Code = grpc.StatusCode
Drafts = Replicas["draft_pb2_grpc.DraftServiceAsyncStub"]


@asynccontextmanager
async def pool(addresses: str, names: Names | None = None) -> AsyncIterator[Drafts]:
    found: Drafts = Replicas(
        addresses,
        draft_pb2_grpc.DraftServiceStub,
        "pool",
        resolve_seconds=0.05,
        lookup=(names or Names()).look_up,
    )
    try:
        yield found
    finally:
        await found.close()


async def until(holds: Callable[[], object]) -> None:
    """Waits for what happens on the other side of a socket."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


def addresses(found: Drafts) -> set[str]:
    return {replica.address for replica in found.ready}


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"part": "pool", **labels}) or 0.0


async def draft(replica: Replica["draft_pb2_grpc.DraftServiceAsyncStub"], steps: int = 3) -> int:
    """Steps that a draft brought."""
    with replica.call() as stub:
        request = draft_pb2.DraftRequest(max_steps=steps)
        return len([step async for step in stub.Draft(request, timeout=30)])


def fail(
    *failed: Replica[object], code: Code = Code.UNAVAILABLE, meanwhile: tuple[Replica[object], ...] = ()
) -> None:
    """A call to each, begun before any fails, while others answer."""
    with suppress(grpc.aio.AioRpcError), ExitStack() as calls:
        for replica in failed:
            calls.enter_context(replica.call())
        for replica in meanwhile:
            replica.answered()
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


@pytest.fixture
async def workers() -> AsyncIterator[list[Worker]]:
    """Three, at different addresses and the same port, as a name's replicas are."""
    port = free_port("127.0.0.1")
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(worker(f"127.0.0.{number}:{port}", FakeServices()))
            for number in (1, 2, 3)
        ]


async def test_replicas_come_and_go_with_their_name(workers: list[Worker]) -> None:
    names = Names(workers=["127.0.0.1"])
    port = workers[0].address.split(":")[1]
    async with pool(f"dns:///workers:{port}", names) as found:
        with pytest.raises(UnavailableError, match="pool: no address is known"):
            found.choose("a", 0, set())
        await until(lambda: addresses(found) == {workers[0].address})
        names.hosts["workers"] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
        await until(lambda: len(addresses(found)) == 3)
        names.hosts["workers"] = ["127.0.0.3"]
        await until(lambda: addresses(found) == {workers[2].address})
        assert metric("dreamr_replicas", state="known") == metric("dreamr_replicas", state="ready") == 1
        # Nobody knows the name for a while.
        asked = len(names.asked)
        del names.hosts["workers"]
        await until(lambda: len(names.asked) > asked + 2)
        assert addresses(found) == {workers[2].address}
        assert await draft(found.order("a")[0]) == 3


async def test_a_replica_that_goes_finishes_its_calls(workers: list[Worker]) -> None:
    names = Names(workers=["127.0.0.1"])
    workers[0].parts.delay = 0.5
    port = workers[0].address.split(":")[1]
    async with pool(f"dns:///workers:{port}", names) as found:
        await until(lambda: found.ready)
        (gone,) = found.ready
        drafting = asyncio.create_task(draft(gone))
        await until(lambda: gone.calls)
        names.hosts["workers"] = ["127.0.0.2"]
        await until(lambda: addresses(found) == {workers[1].address})
        assert gone not in found.order("a")
        assert gone.channel.get_state() is grpc.ChannelConnectivity.READY
        assert await drafting == 3
        await until(lambda: gone.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN)


async def test_names_are_resolved_at_once_when_a_replica_fails(workers: list[Worker]) -> None:
    names = Names(workers=["127.0.0.1"])
    port = workers[0].address.split(":")[1]
    found: Drafts = Replicas(
        f"dns:///workers:{port}",
        draft_pb2_grpc.DraftServiceStub,
        "pool",
        resolve_seconds=3600,
        lookup=names.look_up,
    )
    try:
        await until(lambda: found.ready)
        names.hosts["workers"] = ["127.0.0.2"]
        await workers[0].server.stop(None)
        await until(lambda: addresses(found) == {workers[1].address})
    finally:
        await found.close()


async def test_a_replica_that_does_not_serve_is_asked_last(workers: list[Worker]) -> None:
    async with pool(",".join(one.address for one in workers)) as found:
        await until(lambda: len(found.ready) == 3)
        first, *others = found.order("a")
        own = next(one for one in workers if one.address == first.address)
        own.health.set(serving=False)
        await until(lambda: len(found.ready) == 2)
        assert found.order("a") == [*others, first]
        found.check()
        # Of calls that many make none goes there.
        assert first not in {found.order(f"session {number}")[0] for number in range(50)}
        own.health.set(serving=True)
        await until(lambda: len(found.ready) == 3)
        assert found.order("a") == [first, *others]


async def test_a_worker_that_drains_finishes_its_calls_and_gets_no_new_ones(workers: list[Worker]) -> None:
    async with pool(",".join(one.address for one in workers)) as found:
        await until(lambda: len(found.ready) == 3)
        own = found.order("a")[0]
        draining = next(one for one in workers if one.address == own.address)
        draining.parts.delay = 0.3
        drafting = asyncio.create_task(draft(own))
        await until(lambda: draining.parts.running)
        # As on SIGTERM.
        draining.health.drain()
        began = time.monotonic()
        stopping = asyncio.create_task(draining.server.stop(60))
        await until(lambda: own not in found.ready)
        assert found.order("a")[0] is not own
        assert await drafting == 3
        await stopping
        # The gateway's watch did not hold it up.
        assert time.monotonic() - began < 50


async def test_where_nobody_serves_all_are_asked_and_the_pool_says_why(workers: list[Worker]) -> None:
    async with pool(",".join(one.address for one in workers)) as found:
        with pytest.raises(UnavailableError, match="no word yet"):
            found.check()
        await until(lambda: len(found.ready) == 3)
        order = found.order("a")
        for one in workers:
            one.health.set(serving=False)
        await until(lambda: not found.ready)
        assert found.order("a") == order
        assert await draft(order[0]) == 3
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.2:\d+: not serving"):
            found.check()


async def test_a_replica_that_fails_is_left_alone_for_longer_and_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ejections = metric("dreamr_replica_ejections_total")
    async with pool("127.0.0.1:1,127.0.0.1:2") as found:
        own, other = found.order("a")
        rests = []
        for _ in range(9):
            fail(own)
            assert found.order("a") == [other, own]
            rests.append(own.rests_until - now)
            now = own.rests_until
            assert found.order("a") == [own, other]
        assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert metric("dreamr_replica_ejections_total") == ejections + 9
        own.answered()
        fail(own)
        assert own.rests_until - now == 1
        # Where all rest all are asked, in order.
        fail(other)
        assert found.order("a") == [own, other]


async def test_many_calls_that_break_together_are_one_failure() -> None:
    async with pool("127.0.0.1:1,127.0.0.1:2") as found:
        own = found.order("a")[0]
        before = metric("dreamr_replica_ejections_total")
        fail(*[own] * 20)
        assert own.calls == 0
        assert metric("dreamr_replica_ejections_total") == before + 1


async def test_deadlines_count_only_while_others_answer() -> None:
    async with pool("127.0.0.1:1,127.0.0.1:2") as found:
        own, other = found.order("a")
        late = Code.DEADLINE_EXCEEDED
        for _ in range(10):
            fail(own, code=late)
        assert not own.rests_until
        for count in range(1, replica_module._LATE + 1):
            fail(own, code=late, meanwhile=(other,))
            assert bool(own.rests_until) == (count == replica_module._LATE)
        # It answers others: then it is the call that takes long.
        for _ in range(10):
            fail(other, code=late, meanwhile=(other, own))
        assert not other.rests_until


async def test_a_replica_that_serves_again_rests_no_longer(workers: list[Worker]) -> None:
    async with pool(workers[0].address) as found:
        await until(lambda: found.ready)
        (own,) = found.ready
        fail(own)
        assert not found.ready
        workers[0].health.set(serving=False)
        await until(lambda: own.problem)
        own.rests_until = time.monotonic() + 3600
        workers[0].health.set(serving=True)
        await until(lambda: found.ready)
