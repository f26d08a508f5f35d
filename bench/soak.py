"""`python -m bench.soak`: memory and descriptors of every process over many sessions."""

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.cpu import tree
from bench.models import at_rest
from bench.questions import held_out
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster

AT_ONCE = 4
# Growth from the second to the last tenth that counts as flat: allocators keep a little more now and then.
SPARE_MIB, SPARE_SHARE, SPARE_DESCRIPTORS = 8.0, 0.05, 4


def sizes(cluster: Cluster) -> dict[str, dict[str, float]]:
    """MiB resident and open descriptors of each part, its children included."""
    found = {}
    for name, pid in cluster.pids().items():
        members = tree([pid])
        found[name] = {
            "mib": sum(_resident_kib(member) for member in members) / 1024,
            "descriptors": float(sum(len(list(Path(f"/proc/{member}/fd").iterdir())) for member in members)),
        }
    return found


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


async def measure(cluster: Cluster, sessions: int, seed: int) -> dict[str, Any]:
    """Runs sessions, some at once, every fourth one cancelled; sizes at each tenth of the way."""
    questions = held_out(sessions, seed)
    seen: list[dict[str, dict[str, float]]] = []
    async with AsyncClient(cluster.address) as client:

        async def one(number: int) -> None:
            question = questions[number]
            asking = asyncio.create_task(client.ask(question.text, images=[question.image]))
            if number % 4 == 3:
                await asyncio.sleep(0.05)
                asking.cancel()
                await asyncio.wait([asking])
            else:
                await asking

        tenth = max(AT_ONCE, sessions // 10)
        with tqdm(total=sessions, unit="session") as bar:
            for start in range(0, sessions, AT_ONCE):
                async with asyncio.TaskGroup() as group:
                    batch = range(start, min(start + AT_ONCE, sessions))
                    for number in batch:
                        group.create_task(one(number))
                bar.update(len(batch))
                if (start + AT_ONCE) // tenth > start // tenth:
                    await at_rest(cluster.triton.metrics_address)
                    seen.append(await asyncio.to_thread(sizes, cluster))
    active = {name: engine.active for name, engine in (await at_rest(cluster.triton.metrics_address)).items()}
    return {"sessions": sessions, "seed": seed, "sizes": seen, "active_at_the_end": active}


def grown(seen: list[dict[str, dict[str, float]]]) -> list[str]:
    """What is not flat, in words. The first tenth warms up, and caches may fill in it."""
    found = []
    first, last = seen[min(1, len(seen) - 1)], seen[-1]
    for name, size in last.items():
        more = size["mib"] - first[name]["mib"]
        if more > SPARE_MIB + SPARE_SHARE * first[name]["mib"]:
            found.append(f"{name}: {more:.0f} MiB more")
        if (descriptors := size["descriptors"] - first[name]["descriptors"]) > SPARE_DESCRIPTORS:
            found.append(f"{name}: {descriptors:.0f} descriptors more")
    return found


async def _main(arguments: argparse.Namespace) -> dict[str, Any]:
    async with Cluster() as cluster:
        return await measure(cluster, arguments.sessions, arguments.seed)


def main() -> None:
    """Runs the command; exits with 1 where something is not flat or still active."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    report = asyncio.run(_main(arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    for name in report["sizes"][0]:
        memory = " ".join(f"{at[name]['mib']:.0f}" for at in report["sizes"])
        descriptors = " ".join(f"{at[name]['descriptors']:.0f}" for at in report["sizes"])
        sys.stdout.write(f"{name:9} MiB {memory}\n{'':9} descriptors {descriptors}\n")
    if problems := grown(report["sizes"]):
        raise SystemExit("; ".join(problems))
    if any(report["active_at_the_end"].values()):
        raise SystemExit(f"still active: {report['active_at_the_end']}")


if __name__ == "__main__":
    main()
