"""Sessions while the cluster is troubled, and what became of them."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from bench.chaos.faults import Faults
from bench.chaos.proxy import Proxy
from bench.chaos.watched import BAD, Listener, Watched, faults_of, watch, watch_in_background
from bench.questions import Question
from dreamr.cli.running import room_for
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.errors import DreamrError
from dreamr.events import Session

LEASE_SECONDS = 2.0
_ANSWER_SECONDS = 600.0
# A part that is killed again and again is away for longer than people would wait.
_RESUME_SECONDS = 120.0
_STORED_SECONDS = 30.0
_LEAVES_EVERY = 4
_AWAY_SECONDS = 0.0, 2 * LEASE_SECONDS
# A lease lapses, its client asks again, and the next owner renews for the first time.
_SETTLE_SECONDS = 4 * LEASE_SECONDS


@dataclass(slots=True)
class Outcome:
    """One session: what its client saw, and what was stored right behind its end.

    Attributes:
        comparable: the store has not lost everything between the two.
    """

    seen: Watched
    stored: Session | None
    comparable: bool


async def trouble(
    pair: str,
    questions: Sequence[Question],
    *,
    seed: int,
    at_once: int,
    min_faults: int,
    store: bool,
    on_answer: Callable[[], None],
) -> dict[str, Any]:
    """Asks all questions, some at a time, of a cluster with three gateways and two draft workers.

    Every fourth session is one in the background, which its client leaves and comes back to; not where the
    store is troubled too, since what a session that nobody holds has not stored is lost.

    Args:
        min_faults: of each kind; the questions are asked again until there were so many.
        store: Redis is killed too, and comes back with what it had or empty.
        on_answer: told after each session.
    """
    settings = {
        **room_for(at_once),
        "DREAMR_GATEWAY_LEASE_SECONDS": str(LEASE_SECONDS),
        # No session fails because parts are down as often as they are here.
        "DREAMR_GATEWAY_MAX_ADOPTIONS": "1000",
        "log_level": "ERROR",
    }
    links: dict[str, Proxy] = {}
    async with AsyncExitStack() as stack:

        async def via(name: str, address: str) -> str:
            links[name] = await stack.enter_async_context(Proxy(address))
            return links[name].address

        cluster = await stack.enter_async_context(
            Cluster(pair=pair, gateways=3, draft_workers=2, settings=settings, redis_to_disk=store, via=via)
        )
        if store and "redis" not in cluster.processes:
            raise FileNotFoundError("redis-server is not installed (Debian: redis-tools)")
        straight = await stack.enter_async_context(_client(_straight(cluster)))
        ways = [cluster.gateways[first:] + cluster.gateways[:first] for first in range(3)]
        clients = [await stack.enter_async_context(_client(way)) for way in ways]
        faults = Faults(cluster, links, seed, store=store, settle_seconds=_SETTLE_SECONDS)
        turns = zip(itertools.cycle(questions), itertools.cycle(clients), strict=False)
        found: list[Outcome] = []
        begun, chance = 0, random.Random(seed)

        async def ask_on() -> None:
            nonlocal begun
            while begun < len(questions) or not faults.enough(min_faults):
                begun += 1
                question, client = next(turns)
                leaves = not store and begun % _LEAVES_EVERY == 0
                asked = client.reason(question.text, images=[question.image], background=leaves)
                if leaves:
                    seen = await watch_in_background(client, asked, chance.uniform(*_AWAY_SECONDS))
                else:
                    seen = await watch(client, asked)
                stored = await _stored(straight, seen, faults)
                found.append(Outcome(seen, stored, faults.emptied < seen.ended))
                on_answer()

        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(faults.run(stop))
            async with asyncio.TaskGroup() as asking:
                for _ in range(at_once):
                    asking.create_task(ask_on())
            stop.set()
        # Once more when all is quiet: nothing may have changed behind a session's end.
        for one in found:
            if faults.emptied < one.seen.ended:
                one.stored = await _stored(straight, one.seen, faults)
    bad = sum((faults_of(one.seen, one.stored, compared=one.comparable) for one in found), Counter())
    stalls = [one.seen.longest_stall for one in found]
    return {
        "sessions": len(found),
        "seed": seed,
        "pair": pair,
        "at_once": at_once,
        "faults": {kind: faults.injected[kind] for kind in faults.kinds},
        "parts": {kind: dict(sorted(faults.parts[kind].items())) for kind in faults.kinds},
        **{name: bad[name] for name in BAD},
        "not_compared": sum(not one.comparable for one in found),
        "longest_stall_seconds": max(stalls),
        "p95_stall_seconds": quantiles(stalls, n=20)[-1] if len(stalls) > 1 else stalls[0],
        "failures": sorted({one.seen.failure for one in found if one.seen.failure}),
    }


def _straight(cluster: Cluster) -> list[str]:
    """The gateways themselves, without anything between."""
    return [address for name, address in cluster.addresses.items() if name.startswith("gateway")]


def _client(addresses: Sequence[str]) -> Listener:
    return Listener(",".join(addresses), timeout=_ANSWER_SECONDS, resume_seconds=_RESUME_SECONDS)


async def _stored(client: AsyncClient, seen: Watched, faults: Faults) -> Session | None:
    """What is stored of a session; None where it is not there within a while, or has been lost on purpose."""
    if not seen.session_id:
        return None
    found: Session | None = None
    try:
        async with asyncio.timeout(_STORED_SECONDS):
            while faults.emptied < seen.ended:
                try:
                    found = await client.session(seen.session_id)
                    # It is finished in the store only once its client has heard the answer.
                    if len(found.steps) >= len(seen.commits) and not (
                        seen.finished and found.status == "running"
                    ):
                        return found
                except DreamrError:
                    pass  # the store is away, a gateway frozen, or it is not written back yet
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass
    return found
