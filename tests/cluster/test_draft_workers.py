"""Draft workers that come, go, drain, die and freeze while sessions run: no session notices."""

import asyncio
import itertools
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

import dreamr
from dreamr.cluster.cluster import Cluster
from training.task import held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

QUESTIONS = held_out(12, seed=29)
SESSIONS = 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(draft_workers=3) as running:
        yield running


async def sample(address: str, name: str, **labels: str) -> float:
    """One of a service's metrics; 0 before it counts."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
            return str(response.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(fetch))
    found = (one for family in families for one in family.samples)
    return sum(one.value for one in found if one.name == name and labels.items() <= one.labels.items())


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what other processes do."""
    async with asyncio.timeout(90):
        while not await holds():
            await asyncio.sleep(0.1)


async def ready(cluster: Cluster, count: int) -> None:
    """Waits until the gateway sends drafts to so many workers."""

    async def holds() -> bool:
        labels = {"part": "draft", "state": "ready"}
        return await sample(cluster.metrics["gateway"], "dreamr_replicas", **labels) == count

    await until(holds)


async def drafting(cluster: Cluster, name: str) -> None:
    """Waits until a worker has drafted anew."""

    async def drafts() -> float:
        return await sample(cluster.metrics[name], "dreamr_calls_total", method="Draft")

    async def holds() -> bool:
        return await drafts() > before

    before = await drafts()
    await until(holds)


async def more(answers: list[dreamr.Answer]) -> None:
    """Waits for so many further answers that all of a session's life is behind this moment."""

    async def holds() -> bool:
        return len(answers) >= enough

    enough = len(answers) + 2 * SESSIONS
    await until(holds)


@asynccontextmanager
async def sessions(cluster: Cluster) -> AsyncIterator[list[dreamr.Answer]]:
    """Sessions run while the body does; every one is whole and was drafted for to its end."""
    over = asyncio.Event()
    answers: list[dreamr.Answer] = []

    async def reason(client: dreamr.AsyncClient) -> None:
        for example in itertools.cycle(QUESTIONS):
            if over.is_set():
                return
            answers.append(await client.ask(example.question, images=[example.image]))

    async with dreamr.AsyncClient(cluster.address, timeout=60) as client, asyncio.TaskGroup() as group:
        for _ in range(SESSIONS):
            group.create_task(reason(client))
        try:
            yield answers
        finally:
            over.set()
    assert answers
    for answer in answers:
        assert [step.index for step in answer.steps] == list(range(len(answer.steps)))
        assert answer.steps[-1].closes
        assert answer.answer
        assert not answer.degraded


async def test_workers_are_taken_away_and_added(cluster: Cluster) -> None:
    await ready(cluster, 3)
    async with sessions(cluster) as answers:
        for name in ("draft-2", "draft-3", "draft"):
            await drafting(cluster, name)
            # SIGTERM: it drains.
            await cluster.processes[name].stop()
            await ready(cluster, 2)
            await more(answers)
            await cluster.restart(name)
            await ready(cluster, 3)
            await drafting(cluster, name)


async def test_two_of_three_workers_go_at_once(cluster: Cluster) -> None:
    await ready(cluster, 3)
    async with sessions(cluster) as answers:
        await asyncio.gather(*(cluster.processes[name].stop() for name in ("draft-2", "draft-3")))
        await ready(cluster, 1)
        await more(answers)
        await asyncio.gather(*(cluster.restart(name) for name in ("draft-2", "draft-3")))
        await ready(cluster, 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_worker_that_dies_or_freezes_costs_no_session_its_drafts(
    cluster: Cluster, number: signal.Signals
) -> None:
    await ready(cluster, 3)
    process = cluster.processes["draft-2"]
    async with sessions(cluster):
        await drafting(cluster, "draft-2")
        process.signal(number)
        await ready(cluster, 2)
        if number is signal.SIGKILL:
            await process.ended()
            await cluster.restart("draft-2")
        else:
            process.signal(signal.SIGCONT)
        await ready(cluster, 3)
        await drafting(cluster, "draft-2")
