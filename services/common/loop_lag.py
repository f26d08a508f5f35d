"""How long the event loop keeps a task waiting that could run: what everything in a service waits for."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.metrics import LOOP_LAG, TASKS

EVERY_SECONDS = 0.05


@asynccontextmanager
async def watched_loop() -> AsyncIterator[None]:
    """Observes the running loop during the block, and counts its tasks when asked."""
    loop = asyncio.get_running_loop()
    TASKS.set_function(lambda: len(asyncio.all_tasks(loop)))

    async def watch() -> None:
        while True:
            due = time.perf_counter() + EVERY_SECONDS
            await asyncio.sleep(EVERY_SECONDS)
            # uvloop's timers have milliseconds only, and may come a little early.
            LOOP_LAG.observe(max(0.0, time.perf_counter() - due))

    task = asyncio.create_task(watch(), name="loop-lag")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
