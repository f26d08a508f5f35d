"""Services tell their health to whoever watches, and a drain ends the watches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.channel import open_channel
from services.common.interceptor import MAX_WATCHERS
from services.gateway.health_watch import watch_health
from tests.unit.fake_services import FakeServices
from tests.unit.fake_triton import serving
from tests.unit.worker import Worker, worker

Status = health_pb2.HealthCheckResponse


@pytest.fixture
async def running() -> AsyncIterator[Worker]:
    async with worker() as found:
        yield found


@pytest.fixture
async def stub(running: Worker) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    async with open_channel(running.address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def test_a_watcher_that_leaves_takes_nobodys_news(
    running: Worker, stub: health_pb2_grpc.HealthStub
) -> None:
    calls = [stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20) for name in ("", "part", "")]
    for call in calls:
        assert (await call.read()).status == Status.SERVING
    calls[0].cancel()
    # The server has heard of that once it answers the next call on the connection.
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    for serving_now in (False, True):
        running.health.set(serving=serving_now)
        for call in calls[1:]:
            assert (await call.read()).status == (Status.SERVING if serving_now else Status.NOT_SERVING)


async def test_a_drain_is_told_and_keeps_no_watcher(
    running: Worker, stub: health_pb2_grpc.HealthStub
) -> None:
    call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert (await call.read()).status == Status.SERVING
    running.health.drain()
    assert (await call.read()).status == Status.NOT_SERVING
    assert await call.read() is grpc.aio.EOF
    reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert reply.status == Status.NOT_SERVING


async def test_a_service_that_is_not_there_is_unknown(stub: health_pb2_grpc.HealthStub) -> None:
    asked = health_pb2.HealthCheckRequest(service="nobody")
    assert (await stub.Watch(asked, timeout=20).read()).status == Status.SERVICE_UNKNOWN
    with pytest.raises(grpc.aio.AioRpcError, match="nobody") as caught:
        await stub.Check(asked, timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watchers_are_bounded_and_take_nobodys_place(
    running: Worker, stub: health_pb2_grpc.HealthStub
) -> None:
    asked = health_pb2.HealthCheckRequest()
    calls = [stub.Watch(asked, timeout=20) for _ in range(MAX_WATCHERS)]
    for call in calls:
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Watch(asked, timeout=20).read()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stub.Check(asked, timeout=20)).status == Status.SERVING
    calls[0].cancel()
    async with asyncio.timeout(20):
        while True:
            try:
                await stub.Watch(asked, timeout=20).read()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
            else:
                break


async def told_of(
    address: str, steps: list[tuple[Callable[[str], bool], Callable[[], Awaitable[object]]]]
) -> None:
    """Watches a service; each step is what must be told next, and what is done then."""
    told: asyncio.Queue[str] = asyncio.Queue()
    async with open_channel(address) as channel:
        watching = asyncio.create_task(watch_health(channel, told.put_nowait))
        try:
            async with asyncio.timeout(30):
                for expected, then in steps:
                    while not expected(await told.get()):
                        pass
                    await then()
        finally:
            watching.cancel()
            await asyncio.wait([watching])


async def test_a_service_is_watched_through_its_restart() -> None:
    async def nothing() -> None:
        """Nothing is done then."""

    async with worker() as first:

        async def drain() -> None:
            first.health.drain()

        await told_of(
            first.address,
            [
                (lambda problem: not problem, drain),
                (lambda problem: problem == "not serving", lambda: first.server.stop(None)),
                (lambda problem: "onnect" in problem, nothing),
            ],
        )
    async with worker(first.address):
        await told_of(first.address, [(lambda problem: not problem, nothing)])


async def test_a_service_that_does_not_tell_its_health_is_taken_to_be_well() -> None:
    problems: list[str] = []
    async with serving(FakeServices().add_to) as address, open_channel(address) as channel:
        async with asyncio.timeout(20):
            await watch_health(channel, problems.append)
    assert problems == [""]
