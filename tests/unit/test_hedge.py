"""Drafts that bring nothing for long are begun a second time, no more often than the budget allows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from prometheus_client import REGISTRY

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.errors import UnavailableError
from services.gateway.cluster_parts import Cluster, ClusterParts
from services.gateway.hedge import _BURST as BURST
from services.gateway.hedge import _ENOUGH as ENOUGH
from services.gateway.hedge import _SHARE as SHARE
from services.gateway.hedge import Hedge
from services.gateway.messages import StartDraft
from services.gateway.plan import Plan
from tests.unit.fake_services import STEPS, FakeServices, idle
from tests.unit.running_gateway import PAIR, commits, gateway, request
from tests.unit.test_replica_pool import until
from tests.unit.worker import Worker, worker

Code = grpc.StatusCode
NEVER = 3600.0


@dataclass(slots=True)
class Drafting:
    """A session's parts over several draft workers; `own` is the one that its drafts ask first."""

    cluster: Cluster
    workers: list[Worker]
    parts: ClusterParts
    own: Worker
    other: Worker

    async def draft(self) -> list[str]:
        """The steps of one draft."""
        start = StartDraft(call=1, index=0, prefix=(), steps=3, lane=0)
        async with aclosing(self.parts.draft(start)) as steps:
            return [step.text async for step in steps]

    def learn(self, seconds: float = 0.01) -> None:
        """What first steps take is known from here on."""
        for _ in range(ENOUGH):
            self.cluster.hedge.observe(seconds)


@asynccontextmanager
async def drafting(count: int = 2) -> AsyncIterator[Drafting]:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(worker(parts=FakeServices())) for _ in range(count)]
        cluster = Cluster.connect(",".join(one.address for one in workers), "127.0.0.1:1", "127.0.0.1:1")
        stack.push_async_callback(cluster.close)
        await until(lambda: len(cluster.draft.ready) == count)
        parts = ClusterParts(
            cluster,
            Plan.of(request(), PAIR),
            common_pb2.Context(session_id="a"),
            deadline=asyncio.get_running_loop().time() + 60,
            verdict_seconds=3,
        )
        by_address = {one.address: one for one in workers}
        order = [by_address[replica.address] for replica in cluster.draft.order("a")]
        yield Drafting(cluster, workers, parts, order[0], order[-1])
        assert not any(replica.calls for replica in cluster.draft.order("")), "a call is still counted"


def hedges(faster: str) -> float:
    return REGISTRY.get_sample_value("dreamr_hedges_total", {"faster": faster}) or 0.0


def test_a_call_is_late_behind_the_95th_percentile() -> None:
    hedge = Hedge()
    for number in range(ENOUGH):
        assert hedge.seconds() is None
        hedge.observe(number)
    assert hedge.seconds() == 18
    for number in range(1000):
        hedge.observe(number)
    # Of the 256 latest ones.
    assert hedge.seconds() == 744 + 243


def test_second_calls_are_a_share_of_all() -> None:
    hedge = Hedge()
    made = 0
    for _ in range(2000):
        hedge.began()
        made += hedge.take()
    assert made == pytest.approx(BURST + 2000 * SHARE, abs=1)


async def test_the_worker_that_speaks_first_goes_on_and_the_other_is_cancelled() -> None:
    async with drafting() as found, idle(found.own.parts):
        found.learn()
        found.own.parts.delay = NEVER
        before = hedges("second")
        assert await found.draft() == list(STEPS)
        assert (found.own.drafts, found.other.drafts) == (1, 1)
        await until(lambda: found.own.parts.cancelled == ["Draft"])
        assert hedges("second") == before + 1
        # Whoever is overtaken again and again is asked last.
        assert await found.draft() == list(STEPS)
        assert await found.draft() == list(STEPS)
        assert await found.draft() == list(STEPS)
        assert (found.own.drafts, found.other.drafts) == (3, 4)


async def test_a_slow_first_call_may_still_be_the_faster() -> None:
    async with drafting() as found, idle(found.other.parts):
        found.learn()
        found.own.parts.delay, found.other.parts.delay = 0.5, NEVER
        before = hedges("first")
        assert await found.draft() == list(STEPS)
        assert (found.own.drafts, found.other.drafts) == (1, 1)
        await until(lambda: found.other.parts.cancelled == ["Draft"])
        assert hedges("first") == before + 1


async def test_a_session_that_stops_a_draft_stops_both_calls() -> None:
    async with drafting() as found, idle(found.own.parts), idle(found.other.parts):
        found.learn()
        found.own.parts.delay = found.other.parts.delay = NEVER
        task = asyncio.create_task(found.draft())
        await until(lambda: found.other.parts.running)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_the_second_call_stands_in_for_a_first_that_fails() -> None:
    async with drafting() as found:
        found.learn()
        found.own.parts.delay, found.other.parts.delay = NEVER, 0.5
        task = asyncio.create_task(found.draft())
        await until(lambda: found.other.parts.running)
        await found.own.server.stop(None)
        assert await task == list(STEPS)
        assert found.other.drafts == 1


async def test_one_that_fails_before_it_is_late_is_asked_elsewhere() -> None:
    async with drafting() as found:
        found.learn(NEVER)
        found.own.parts.failures = {"Draft": [Code.UNAVAILABLE]}
        assert await found.draft() == list(STEPS)
        found.own.parts.failures = found.other.parts.failures = {"Draft": [Code.UNAVAILABLE] * 9}
        with pytest.raises(UnavailableError, match="draft: Draft says no"):
            await found.draft()


@pytest.mark.parametrize("why", ["nothing is known", "one worker", "the other does not serve", "no budget"])
async def test_no_second_call_where(why: str) -> None:
    async with drafting(1 if why == "one worker" else 2) as found:
        if why != "nothing is known":
            found.learn()
        if why == "the other does not serve":
            found.other.health.set(serving=False)
            await until(lambda: len(found.cluster.draft.ready) == 1)
        while why == "no budget" and found.cluster.hedge.take():
            pass
        found.own.parts.delay = 0.3
        assert await found.draft() == list(STEPS)
        assert sum(one.drafts for one in found.workers) == 1


async def test_times_of_calls_that_were_overtaken_count() -> None:
    async with drafting() as found:
        found.learn(0.2)
        found.own.parts.delay = NEVER
        assert await found.draft() == list(STEPS)
        assert max(found.cluster.hedge._times) > 0.2
        assert len(found.cluster.hedge._times) == ENOUGH + 2


async def test_sessions_count_a_draft_once_however_often_it_was_begun() -> None:
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(worker(parts=FakeServices(delay=NEVER)))
        fast = await stack.enter_async_context(worker(parts=FakeServices()))
        running = await stack.enter_async_context(
            gateway(FakeServices(target_delay=5.0), addresses={"draft": f"{slow.address},{fast.address}"})
        )
        cluster = running.service._reasoning._cluster
        await until(lambda: len(cluster.draft.ready) == 2)
        for _ in range(ENOUGH):
            cluster.hedge.observe(0.01)
        governor = running.service._reasoning._governor
        while not slow.drafts:
            drafted = governor.draft.count
            told = await running.reason(request(gateway_pb2.ReasonOptions(policy="fpsr")), timeout=30)
            assert [commit.step.text for commit in commits(told)] == list(STEPS)
            totals = told[-1].finished.totals
            assert (totals.accepted, totals.rejected, totals.cancelled) == (len(STEPS), 0, 0)
            assert totals.draft.generated_tokens == 5 * len(STEPS)
            assert governor.draft.count == drafted + len(STEPS)
            assert not told[-1].finished.degraded
