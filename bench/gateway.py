"""`python -m bench.gateway`: what the gateway itself costs, with many sessions in flight at once.

Two figures tell what it adds to a session's time. What the client saw beyond the session's bound (its calls,
each as long as it took until the gateway heard of it, played again without the gateway) is the work between
calls: the state machine, the store, the front. How late the event loop wakes a task is what each of the calls
waited for within the gateway, and is no part of the former.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import cpu
from bench.bound import bound
from bench.questions import Question, emulated
from bench.runner import WARM_UP
from bench.statistics import histogram_quantile, quantile
from dreamr.cli.running import room_for
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.metrics import scrape
from dreamr.events import Commit, Event

ALLOWED_MILLISECONDS = 50.0
"""Added to a session by the gateway at the 99th percentile."""
CERTAIN_SESSIONS = 200
"""Sessions in flight up to which that must hold."""
_ARRIVE_SECONDS = 10.0
_TIMEOUT = 600.0
_LAG = "dreamr_event_loop_lag_seconds_bucket"


async def measure(cluster: Cluster, sessions: int, seed: int) -> dict[str, Any]:
    """Sessions with full speculation that begin within ten seconds and are then under way together."""
    questions, chance = emulated(sessions, seed), random.Random(seed)
    gateway = [cluster.pids()["gateway"]]
    metrics = cluster.metrics["gateway"]
    bar = tqdm(total=sessions, unit="session")

    async def ask(client: AsyncClient, question: Question) -> tuple[float, list[Event]]:
        await asyncio.sleep(chance.uniform(0, _ARRIVE_SECONDS))
        began = time.perf_counter()
        stream = client.reason(
            question.text, images=[question.image], governor=False, activity=True, timeout=_TIMEOUT
        )
        async with aclosing(stream) as happened:
            events = [event async for event in happened]
        bar.update()
        return time.perf_counter() - began, events

    async with AsyncClient(cluster.address) as client:
        # First calls load and connect; that is no cost of sessions.
        await asyncio.gather(
            *(client.ask(one.text, images=[one.image], timeout=_TIMEOUT) for one in questions[:WARM_UP])
        )
        before = await scrape(metrics)
        began, spent = time.perf_counter(), cpu.seconds(gateway)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(client, question)) for question in questions]
        wall, spent = time.perf_counter() - began, cpu.seconds(gateway) - spent
        after = await scrape(metrics)
    bar.close()
    found = [task.result() for task in asking]
    commits = sum(isinstance(event, Commit) for _, events in found for event in events)
    added = [
        (seconds - least) * 1000
        for seconds, events in found
        if (least := await asyncio.to_thread(bound, events)) is not None
    ]
    return {
        "sessions": sessions,
        "seconds": wall,
        "commits_per_second": commits / wall,
        "gateway_cpu_milliseconds_a_commit": spent * 1000 / commits,
        "gateway_cores": spent / wall,
        "added_milliseconds": {"p50": quantile(added, 0.5), "p99": quantile(added, 0.99)},
        "loop_lag_milliseconds": {
            name: 1000 * histogram_quantile(before, after, _LAG, share)
            for name, share in (("p50", 0.5), ("p99", 0.99))
        },
        "not_replayed": sessions - len(added),
    }


async def _main(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    levels = [int(level) for level in arguments.sessions.split(",")]
    async with Cluster(pair=arguments.pair, settings=room_for(max(levels))) as cluster:
        return [await measure(cluster, sessions, arguments.seed) for sessions in levels]


def main() -> None:
    """Runs the command; exits with 1 where the gateway adds more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", default="50,200", help="in flight at once, with commas between")
    parser.add_argument("--pair", default="emulated:qwen3vl-32b-2b")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    report = asyncio.run(_main(arguments))
    text = json.dumps(report, indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    sys.stdout.write(text)
    for level in report:
        added = level["added_milliseconds"]["p99"] + level["loop_lag_milliseconds"]["p99"]
        if level["sessions"] <= CERTAIN_SESSIONS and added >= ALLOWED_MILLISECONDS:
            raise SystemExit(f"{level['sessions']} sessions: more than {ALLOWED_MILLISECONDS:.0f} ms added")


if __name__ == "__main__":
    main()
