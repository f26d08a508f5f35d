"""Sessions while the cluster is troubled, and what became of them."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from statistics import quantiles
from typing import Any

from bench.chaos.faults import Faults
from bench.chaos.proxy import Proxy
from bench.chaos.watched import Watched, faults_of, watch
from bench.questions import Question
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.errors import DreamrError
from dreamr.events import Session

BAD = ("lost", "repeated", "reordered", "unanswered")
LEASE_SECONDS = 2.0
_ANSWER_SECONDS = 300.0


async def trouble(
    pair: str,
    questions: Sequence[Question],
    *,
    seed: int,
    at_once: int,
    store: bool,
    on_answer: Callable[[], None],
) -> dict[str, Any]:
    """Asks all questions, some at a time, of a cluster with three gateways and two draft workers.

    Args:
        store: the store is killed too, and comes back empty.
        on_answer: told after each session.
    """
    settings = {"DREAMR_GATEWAY_LEASE_SECONDS": str(LEASE_SECONDS), "log_level": "ERROR"}
    async with (
        Cluster(pair=pair, gateways=3, draft_workers=2, settings=settings) as cluster,
        AsyncExitStack() as stack,
    ):
        proxies = [await stack.enter_async_context(Proxy(address)) for address in cluster.gateways]
        clients = [await stack.enter_async_context(_client(proxies, first)) for first in range(len(proxies))]
        faults = Faults(cluster, proxies, seed, store=store)
        troubling = asyncio.create_task(faults.run())
        places, turns = asyncio.Semaphore(at_once), itertools.cycle(clients)

        async def ask(question: Question) -> Watched:
            async with places:
                found = await watch(next(turns), question)
            on_answer()
            return found

        try:
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(question)) for question in questions]
        finally:
            troubling.cancel()
            await asyncio.wait([troubling])
        found = [task.result() for task in asking]
        straight = await stack.enter_async_context(AsyncClient(",".join(cluster.gateways)))
        stored = [await _stored(straight, one.session_id) for one in found]
    bad: Counter[str] = sum(map(faults_of, found, stored), Counter())
    stalls = [one.longest_stall for one in found]
    return {
        "sessions": len(found),
        "seed": seed,
        "pair": pair,
        "faults": dict(sorted(faults.injected.items())),
        **{name: bad[name] for name in BAD},
        "longest_stall_seconds": max(stalls),
        "p95_stall_seconds": quantiles(stalls, n=20)[-1] if len(stalls) > 1 else stalls[0],
        "failures": sorted({one.failure for one in found if one.failure}),
    }


def _client(proxies: Sequence[Proxy], first: int) -> AsyncClient:
    """Knows all gateways, and begins with one of them."""
    addresses = [proxy.address for proxy in (*proxies[first:], *proxies[:first])]
    return AsyncClient(",".join(addresses), timeout=_ANSWER_SECONDS, resume_seconds=120)


async def _stored(client: AsyncClient, session_id: str) -> Session | None:
    try:
        return await client.session(session_id) if session_id else None
    except DreamrError:
        return None
