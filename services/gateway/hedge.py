"""Hedged calls: one that brings nothing for long is made a second time elsewhere, and the faster one counts.

After J. Dean and L. A. Barroso, The Tail at Scale, CACM 56(2), 2013.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Generic, TypeVar

from services.gateway import metrics
from services.gateway.replica import Replica

Item = TypeVar("Item")

# "Outstanding for more than the 95th-percentile expected latency" (ibid.): one call in twenty.
_QUANTILE = 0.95
_RECENT = 256
"""Calls whose times count."""
_ENOUGH = 20
"""With fewer of them there is no such percentile."""
# A bucket as in gRPC's retry throttling (gRFC A6). Twice what the percentile asks for by itself, so that it
# binds only where something is wrong; a burst for the calls that one replica had under way.
_SHARE, _BURST = 0.1, 10.0


class Hedge:
    """When calls of one kind are made a second time."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_RECENT)
        self._budget = _BURST

    def began(self) -> None:
        """A call begins, which earns its share of a second one."""
        self._budget = min(self._budget + _SHARE, _BURST)

    def seconds(self) -> float | None:
        """How long a call may bring nothing; None until enough is known."""
        if len(self._times) < _ENOUGH:
            return None
        return sorted(self._times)[ceil(_QUANTILE * len(self._times)) - 1]

    def observe(self, seconds: float) -> None:
        """A call took so long to speak; or did not, and was overtaken then.

        Those count with what they had waited: without them the percentile would sink with each hedge.
        """
        self._times.append(seconds)

    def take(self) -> bool:
        """Spends a second call; false when too many were made."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True


@dataclass(slots=True, eq=False)
class Attempt(Generic[Item]):
    """One call: what it brings from a replica, since when."""

    replica: Replica[Any]
    items: AsyncGenerator[Item, None]
    began: float = field(default_factory=time.monotonic)


async def hedged(
    first: Attempt[Item], again: Callable[[], Attempt[Item] | None], hedge: Hedge
) -> AsyncGenerator[Item, None]:
    """What a call brings, or a second one where the first says nothing for long; the slower is cancelled.

    Args:
        again: makes the second one; None where there is no other replica for it.

    Raises:
        grpc.aio.AioRpcError: neither brought anything, or the faster one broke off later.
    """
    hedge.began()
    attempts = {_begin(first): first}
    winner: Attempt[Item] | None = None
    try:
        done, _ = await asyncio.wait(attempts, timeout=hedge.seconds())
        if not done and (second := again()) and hedge.take():
            attempts[_begin(second)] = second
        task = await _faster(attempts)
        items = task.result()
        winner = attempts[task]
        now = time.monotonic()
        hedge.observe(now - winner.began)
        if len(attempts) > 1:
            metrics.HEDGES.labels("first" if winner is first else "second").inc()
            if winner is not first and not next(iter(attempts)).done():
                hedge.observe(now - first.began)
                first.replica.overdue(first.began)
    finally:
        slower = [task for task, attempt in attempts.items() if attempt is not winner]
        for task in slower:
            task.cancel()
        await asyncio.gather(*slower, return_exceptions=True)
        for task in slower:
            await attempts[task].items.aclose()
    async with aclosing(winner.items):
        for item in items:
            yield item
        async for item in winner.items:
            yield item


def _begin(attempt: Attempt[Item]) -> "asyncio.Task[list[Item]]":
    async def first_item() -> list[Item]:
        async for item in attempt.items:
            return [item]
        return []

    return asyncio.create_task(first_item())


async def _faster(tasks: Iterable["asyncio.Task[list[Item]]"]) -> "asyncio.Task[list[Item]]":
    """The first that succeeds; where none does, the last to fail."""
    waiting = set(tasks)
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and not task.exception():
                return task
        if not waiting:
            return done.pop()
