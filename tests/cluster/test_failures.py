"""Parts that die while a session runs. Each test breaks a cluster of its own."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import pytest_asyncio

import dreamr
from dreamr.cluster.cluster import Cluster
from training.task import Example, held_out

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

LONG = max(held_out(40, seed=13), key=lambda example: len(example.steps))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken() -> AsyncIterator[Cluster]:
    async with Cluster() as running:
        yield running


async def events_with(cluster: Cluster, example: Example, kill: str) -> list[dreamr.Event]:
    """A session during which a service is killed at the first commit."""
    seen: list[dreamr.Event] = []
    async with dreamr.AsyncClient(cluster.address, timeout=30) as client:
        stream = client.reason(example.question, images=[example.image])
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, dreamr.Commit) and event.index == 0:
                    cluster.processes[kill].kill()
                seen.append(event)
    return seen


@pytest.mark.parametrize("part", ["draft", "verifier"])
async def test_the_answer_still_comes_without(broken: Cluster, part: str) -> None:
    answer = dreamr.Answer.of(await events_with(broken, LONG, kill=part))
    assert answer.answer
    # The next session begins without the part, and what is committed is the target's own.
    async with dreamr.AsyncClient(broken.address, timeout=30) as client:
        alone = await client.ask(LONG.question, images=[LONG.image])
    assert alone.degraded
    assert alone.steps[-1].closes
    by_draft = [step for step in alone.steps if step.author == "draft"]
    # Without the judge a candidate counts only where the target has written the very same.
    reasons = {step.verdict.reason for step in by_draft if step.verdict}
    assert reasons <= (set() if part == "draft" else {"equal_to_rival"})
    assert part == "verifier" or not by_draft
    await broken.restart(part)


async def test_redis_away_costs_durability_only(broken: Cluster) -> None:
    if "redis" not in broken.processes:
        pytest.skip("redis-server is not installed (Debian: redis-tools)")
    answer = dreamr.Answer.of(await events_with(broken, LONG, kill="redis"))
    assert answer.steps[-1].closes
    async with dreamr.AsyncClient(broken.address, timeout=30) as client:
        seen = [event async for event in client.reason(LONG.question, images=[LONG.image])]
    assert isinstance(seen[0], dreamr.Started)
    assert not seen[0].durable


async def test_triton_killed_is_unavailable_and_never_a_hang(broken: Cluster) -> None:
    committed: list[dreamr.Commit] = []

    async def reason() -> None:
        async with (
            dreamr.AsyncClient(broken.address, timeout=20) as client,
            aclosing(client.reason(LONG.question, images=[LONG.image])) as events,
        ):
            async for event in events:
                if isinstance(event, dreamr.Commit):
                    committed.append(event)
                    if len(committed) == 1 and broken.triton.pid is not None:
                        os.killpg(broken.triton.pid, signal.SIGKILL)

    with pytest.raises(dreamr.UnavailableError, match="keeps"):
        await reason()
    assert committed
