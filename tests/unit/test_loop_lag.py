"""A loop that is held up is seen to be."""

import asyncio
import time

from services.common.loop_lag import EVERY_SECONDS, watched_loop
from services.common.metrics import LOOP_LAG, TASKS


def slow() -> float:
    """Observations above a quarter of a second."""
    buckets = {
        sample.labels["le"]: sample.value
        for family in LOOP_LAG.collect()
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    return float(buckets["+Inf"] - buckets["0.25"])


async def test_a_task_that_holds_the_loop_up_is_seen() -> None:
    before = slow()
    async with watched_loop():
        await asyncio.sleep(0)
        time.sleep(0.3 + EVERY_SECONDS)  # noqa: ASYNC251 - what must not happen
        await asyncio.sleep(EVERY_SECONDS)
    assert slow() == before + 1


def tasks() -> float:
    return next(sample.value for family in TASKS.collect() for sample in family.samples)


async def test_tasks_are_counted_when_asked_for() -> None:
    async with watched_loop():
        before = tasks()
        more = asyncio.create_task(asyncio.sleep(60))
        assert await asyncio.to_thread(tasks) >= before + 1
        more.cancel()
        await asyncio.wait([more])
        assert tasks() == before
