"""Sessions outlive gateways that are killed, stopped and frozen: three gateways over real Redis."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

import dreamr
from dreamr.cluster.cluster import Cluster
from tests.cluster.running_examples import run_example
from training.task import Example, held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

LONG = sorted(held_out(60, seed=13), key=lambda example: -len(example.steps))[:4]
LEASE = 1.5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    settings = {"DREAMR_GATEWAY_LEASE_SECONDS": str(LEASE)}
    async with Cluster(gateways=3, settings=settings) as running:
        if "redis" not in running.processes:
            pytest.skip("redis-server is not installed (Debian: redis-tools)")
        yield running


def addresses(cluster: Cluster, first: int) -> str:
    """All gateways, beginning with one of them."""
    return ",".join(cluster.gateways[first:] + cluster.gateways[:first])


async def events(
    client: dreamr.AsyncClient, example: Example, behind: int, happens: Callable[[], object]
) -> list[dreamr.Event]:
    """A session during which something happens behind one of its commits."""
    seen: list[dreamr.Event] = []
    async with aclosing(client.reason(example.question, images=[example.image])) as told:
        async for event in told:
            seen.append(event)
            if isinstance(event, dreamr.Commit) and event.index == behind:
                happens()
    return seen


def check(seen: list[dreamr.Event]) -> None:
    """Nothing is missing, repeated or out of order, and the answer is there."""
    commits = [event for event in seen if isinstance(event, dreamr.Commit)]
    assert [commit.index for commit in commits] == list(range(len(commits)))
    assert commits[-1].closes
    assert isinstance(seen[-1], dreamr.Finished)
    assert seen[-1].answer


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to stop"])
async def test_the_answer_comes_from_another_gateway(cluster: Cluster, number: signal.Signals) -> None:
    process = cluster.processes["gateway-2"]
    async with dreamr.AsyncClient(addresses(cluster, 1), timeout=60) as client:
        seen = await events(client, LONG[0], 1, lambda: os.kill(process.pid, number))
        check(seen)
        started = seen[0]
        assert isinstance(started, dreamr.Started)
        # The client has what the store has.
        stored = await client.session(started.session_id)
        assert stored.status == "finished"
        assert [step.text for step in stored.steps] == [
            event.text for event in seen if isinstance(event, dreamr.Commit)
        ]
    await cluster.restart("gateway-2")


async def test_a_gateway_that_freezes_and_wakes_up_does_no_harm(cluster: Cluster) -> None:
    process = cluster.processes["gateway-3"]
    async with dreamr.AsyncClient(addresses(cluster, 2), timeout=60) as client:
        stream = client.reason(LONG[1].question, images=[LONG[1].image])
        seen: list[dreamr.Event] = []
        async with aclosing(stream) as told:
            async for event in told:
                seen.append(event)
                if isinstance(event, dreamr.Commit) and event.index == 1:
                    os.kill(process.pid, signal.SIGSTOP)
                    break
        started = seen[0]
        assert isinstance(started, dreamr.Started)
        try:
            # Its client has had enough of it, and asks another.
            async with dreamr.AsyncClient(cluster.gateways[0], timeout=60) as other:
                rest = [event async for event in other.resume(started.session_id, from_index=2)]
        finally:
            os.kill(process.pid, signal.SIGCONT)
        check([*seen, *(event for event in rest if not isinstance(event, dreamr.Started))])
        await asyncio.sleep(LEASE)
        stored = await client.session(started.session_id)
        assert stored.status == "finished"
        told_steps = [event.text for event in [*seen, *rest] if isinstance(event, dreamr.Commit)]
        assert [step.text for step in stored.steps] == told_steps


async def test_in_the_background_it_ends_without_its_client_and_its_gateway(cluster: Cluster) -> None:
    process = cluster.processes["gateway-2"]
    seen: list[dreamr.Event] = []
    async with dreamr.AsyncClient(cluster.gateways[1], timeout=60) as client:
        stream = client.reason(LONG[0].question, images=[LONG[0].image], background=True)
        async with aclosing(stream) as told:
            async for event in told:
                seen.append(event)
                if isinstance(event, dreamr.Commit) and event.index == 1:
                    os.kill(process.pid, signal.SIGKILL)
                    break
    started = seen[0]
    assert isinstance(started, dreamr.Started)
    async with dreamr.AsyncClient(cluster.gateways[0]) as other, asyncio.timeout(60):
        while (stored := await other.session(started.session_id)).status == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert stored.status == "finished"
    assert stored.finished
    assert stored.finished.answer
    known = [event.text for event in seen if isinstance(event, dreamr.Commit)]
    assert [step.text for step in stored.steps][: len(known)] == known
    assert stored.steps[-1].closes
    await cluster.restart("gateway-2")


async def test_another_program_goes_on_where_one_left_off(cluster: Cluster, tmp_path: Path) -> None:
    image, (_, second, _) = tmp_path / "grid.png", cluster.gateways
    LONG[1].image.save(image)
    (line,) = await run_example("resume", "begin", second, str(image), LONG[1].question)
    os.kill(cluster.processes["gateway-2"].pid, signal.SIGKILL)
    session, steps = line.split()
    *rest, answer = await run_example("resume", "go-on", cluster.gateways[0], session, steps)
    assert [int(told.split()[0]) for told in rest] == list(range(int(steps), int(steps) + len(rest)))
    assert answer.startswith("answer: ")
    await cluster.restart("gateway-2")


async def test_redis_that_comes_back_empty_is_filled_again(cluster: Cluster) -> None:
    def restart() -> None:
        restarting.append(asyncio.ensure_future(_restart_redis(cluster)))

    restarting: list[asyncio.Future[None]] = []
    async with dreamr.AsyncClient(addresses(cluster, 0), timeout=60) as client:
        seen = await events(client, LONG[2], 0, restart)
        await asyncio.gather(*restarting)
        check(seen)
        again = await events(client, LONG[3], 0, lambda: None)
        started = again[0]
        assert isinstance(started, dreamr.Started)
        assert started.durable


async def _restart_redis(cluster: Cluster) -> None:
    child = cluster.processes["redis"]
    await child.stop()
    await child.start()
