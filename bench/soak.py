"""`python -m bench.soak`: what every process holds while a cluster works for long at a part of its capacity.

First the cluster is saturated for a while, which tells its capacity and fills its caches. Then sessions
arrive at a share of that, as in a Poisson process, and every fourth one is cancelled. What each part holds
is flat where the median of the run's last third is no more than that of its middle third, but for what
allocators keep; the first third warms up.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from bench.cpu import tree
from bench.models import at_rest, engines
from bench.questions import Question, emulated, held_out
from dreamr.cli.running import room_for
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.metrics import scrape

SATURATED_SECONDS = 30.0
SAMPLES = 60
_QUESTIONS = 200
_CANCEL_EVERY = 4
_TIMEOUT = 600.0
_TASKS = ("dreamr_event_loop_tasks", "")

SPARE_SHARE = {"mib": 0.05, "descriptors": 0.05, "threads": 0.05, "tasks": 0.1, "requests": 0.1}
SPARE = {"mib": 8.0, "descriptors": 4.0, "threads": 2.0, "tasks": 8.0, "requests": 4.0}
"""By so much and by that share of it the last third's median may be above the middle third's."""

Sizes = dict[str, dict[str, float]]
"""What each part holds, by part and by name."""


async def sizes(cluster: Cluster) -> Sizes:
    """MiB resident, open descriptors and threads of each part, its children included;
    tasks of a service's event loop, requests at a Triton.
    """
    found = await asyncio.to_thread(_held, cluster.pids())
    for name, address in cluster.metrics.items():
        found[name]["tasks"] = (await scrape(address))[_TASKS]
    for name, server in cluster.tritons.items():
        found[name]["requests"] = sum(one.active for one in (await engines(server.metrics_address)).values())
    return found


def _held(pids: dict[str, int]) -> Sizes:
    found = {}
    for name, pid in pids.items():
        members = [_status(member) for member in tree([pid])]
        found[name] = {
            "mib": sum(member["VmRSS"] for member in members) / 1024,
            "descriptors": sum(member["descriptors"] for member in members),
            "threads": sum(member["Threads"] for member in members),
        }
    return found


def _status(pid: int) -> dict[str, float]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "descriptors": float(len(list(Path(f"/proc/{pid}/fd").iterdir()))),
        **{name: float(lines.get(name, "0").split()[0]) for name in ("VmRSS", "Threads")},
    }


class Load:
    """Sessions at a cluster, every fourth one of which is cancelled soon."""

    def __init__(self, client: AsyncClient, questions: Sequence[Question], seed: int) -> None:
        self.asked = 0
        self._client = client
        self._questions = itertools.cycle(questions)
        self._chance = random.Random(seed)

    async def saturate(self, at_once: int, seconds: float) -> float:
        """Sessions that the cluster can take in a second."""
        until = time.perf_counter() + seconds
        before = self.asked

        async def ask_on() -> None:
            while time.perf_counter() < until:
                await self._ask()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(ask_on())
        return (self.asked - before) / (time.perf_counter() - began)

    async def arrive(self, rate: float, seconds: float) -> None:
        """So many sessions a second on the average, whether those before have ended or not."""
        due, until = time.perf_counter(), time.perf_counter() + seconds
        async with asyncio.TaskGroup() as group:
            while (due := due + self._chance.expovariate(rate)) < until:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                group.create_task(self._ask())

    async def _ask(self) -> None:
        self.asked += 1
        question = next(self._questions)
        asking = self._client.ask(question.text, images=[question.image], timeout=_TIMEOUT)
        if self.asked % _CANCEL_EVERY:
            await asking
        else:
            task = asyncio.create_task(asking)
            await asyncio.sleep(self._chance.uniform(0.0, 0.2))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()


async def measure(
    cluster: Cluster, questions: Sequence[Question], *, at_once: int, seconds: float, load: float, seed: int
) -> dict[str, Any]:
    """Sizes over a time at a share of the cluster's capacity, which is measured first."""
    seen: list[Sizes] = []
    metrics = [server.metrics_address for server in cluster.tritons.values()]

    async def sample() -> None:
        with tqdm(total=SAMPLES, unit="sample") as bar:
            for _ in range(SAMPLES):
                await asyncio.sleep(seconds / SAMPLES)
                seen.append(await sizes(cluster))
                bar.update()

    async with AsyncClient(cluster.address) as client:
        work = Load(client, questions, seed)
        capacity = await work.saturate(at_once, SATURATED_SECONDS)
        before = work.asked
        async with asyncio.TaskGroup() as group:
            group.create_task(work.arrive(load * capacity, seconds))
            group.create_task(sample())
    resting = {name: engine.active for name, engine in (await at_rest(*metrics)).items()}
    return {
        "seed": seed,
        "load": load,
        "capacity_sessions_per_second": capacity,
        "seconds": seconds,
        "sessions": work.asked - before,
        "samples": seen,
        "at_the_end": await sizes(cluster),
        "active_at_the_end": resting,
    }


def thirds(samples: Sequence[Sizes]) -> Iterator[tuple[str, str, list[float]]]:
    """Part, what it holds, and the medians over the three thirds of a run."""
    third = len(samples) // 3
    for part, held in samples[0].items():
        for name in held:
            values = [sample[part][name] for sample in samples]
            yield part, name, [median(values[at * third : (at + 1) * third]) for at in range(3)]


def grown(samples: Sequence[Sizes]) -> list[str]:
    """What is not flat, in words."""
    return [
        f"{part}: {last - middle:.1f} {name} more"
        for part, name, (_, middle, last) in thirds(samples)
        if last - middle > SPARE[name] + SPARE_SHARE[name] * middle
    ]


async def _main(arguments: argparse.Namespace) -> dict[str, Any]:
    is_emulated = arguments.pair.startswith("emulated:")
    at_once = 64 if is_emulated else 8
    questions = (emulated if is_emulated else held_out)(_QUESTIONS, arguments.seed)
    async with Cluster(pair=arguments.pair, settings=room_for(at_once)) as cluster:
        return await measure(
            cluster,
            questions,
            at_once=at_once,
            seconds=arguments.minutes * 60,
            load=arguments.load,
            seed=arguments.seed,
        )


def main() -> None:
    """Runs the command; exits with 1 where something is not flat or still active."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--load", type=float, default=0.5, help="share of the capacity, which is measured first"
    )
    parser.add_argument("--pair", default="bundled")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.minutes <= 0 or not 0 < arguments.load <= 1:
        parser.error("--minutes must be above 0, and --load above 0 and at most 1")
    report = asyncio.run(_main(arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(
        f"{report['sessions']} sessions in {report['seconds']:.0f} s, at {report['load']:.0%} of"
        f" {report['capacity_sessions_per_second']:.2f} a second\n"
        "medians over each third of the time, and after the end\n"
    )
    for part, name, medians in thirds(report["samples"]):
        values = [*medians, report["at_the_end"][part][name]]
        sys.stdout.write(f"{part:9} {name:12}{''.join(f'{value:9.0f}' for value in values)}\n")
    if problems := grown(report["samples"]):
        raise SystemExit("; ".join(problems))
    if any(report["active_at_the_end"].values()):
        raise SystemExit(f"still active: {report['active_at_the_end']}")


if __name__ == "__main__":
    main()
