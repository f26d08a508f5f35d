"""`python -m bench.cancellation`: how soon both models stop after a client has cancelled."""

import argparse
import asyncio
import json
import random
import sys
import time
from contextlib import aclosing
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from bench.models import MODELS, at_rest
from bench.questions import held_out
from bench.statistics import quantile
from dreamr.client import AsyncClient
from dreamr.cluster.cluster import Cluster
from dreamr.events import ModelTotals

GRACE_MILLISECONDS = 20.0
"""Allowed beyond two decode iterations, at the 99th percentile."""


async def measure(cluster: Cluster, requests: int, seed: int) -> dict[str, Any]:
    """Cancels requests at random moments; milliseconds from the cancel to each model's last token.

    A model that had nothing left to do is left out. Beside it, how long a decode iteration takes, the calls'
    way through the cluster included.
    """
    rng = random.Random(seed)
    questions = held_out(32, seed)
    metrics = cluster.triton.metrics_address
    lags: dict[str, list[float]] = {model: [] for model in MODELS}
    async with AsyncClient(cluster.address) as client:
        full = [await client.ask(question.text, images=[question.image]) for question in questions[:10]]
        alone = [
            await client.ask(question.text, images=[question.image], policy="target")
            for question in questions[:10]
        ]
        iteration = {
            "draft": _iteration([answer.totals.draft for answer in full]),
            "target": _iteration([answer.totals.target for answer in alone]),
        }
        mean_seconds = fmean(answer.seconds for answer in full)
        for _ in tqdm(range(requests), unit="request"):
            question = rng.choice(questions)
            stream = client.reason(question.text, images=[question.image])

            async def read(events: Any = stream) -> None:
                async with aclosing(events) as happened:
                    async for _ in happened:
                        pass

            reading = asyncio.create_task(read())
            await asyncio.sleep(rng.uniform(0, mean_seconds))
            cancelled = time.time()
            reading.cancel()
            await asyncio.wait([reading])
            await asyncio.sleep(0.1)
            for model, engine in (await at_rest(metrics)).items():
                lags[model].append(max(0.0, engine.last_token - cancelled) * 1000)
    busy = {model: [lag for lag in found if lag > 0] or [0.0] for model, found in lags.items()}
    return {
        "requests": requests,
        "seed": seed,
        "milliseconds": {
            model: {"p50": quantile(found, 0.5), "p99": quantile(found, 0.99), "max": max(found)}
            for model, found in busy.items()
        },
        "iteration_milliseconds": iteration,
        "allowed_milliseconds": {model: 2 * iteration[model] + GRACE_MILLISECONDS for model in MODELS},
        "had_work": {model: len(found) for model, found in busy.items()},
        "active_at_the_end": {model: engine.active for model, engine in (await at_rest(metrics)).items()},
    }


def _iteration(totals: list[ModelTotals]) -> float:
    """Milliseconds a token while a call was under way."""
    busy = sum(total.busy_seconds for total in totals)
    return busy / sum(total.generated_tokens for total in totals) * 1000


async def _main(arguments: argparse.Namespace) -> dict[str, Any]:
    # Health is probed by a real inference, whose token would look like one of a cancelled request.
    quiet = {f"DREAMR_{service}_PROBE_SECONDS": "3600" for service in ("DRAFT", "TARGET")}
    async with Cluster(settings=quiet) as cluster:
        return await measure(cluster, arguments.requests, arguments.seed)


def main() -> None:
    """Runs the command; exits with 1 where a model stops too late or still has a request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    report = asyncio.run(_main(arguments))
    text = json.dumps(report, indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    sys.stdout.write(text)
    late = [
        model
        for model in MODELS
        if report["milliseconds"][model]["p99"] > report["allowed_milliseconds"][model]
    ]
    if late or any(report["active_at_the_end"].values()):
        raise SystemExit(f"too late, or still active: {', '.join(late) or report['active_at_the_end']}")


if __name__ == "__main__":
    main()
