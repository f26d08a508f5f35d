"""Asks every question under every policy, interleaved, in one run."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import cpu
from bench.questions import Question
from dreamr.client import AsyncClient
from dreamr.events import Answer

WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One question under one policy. `seconds` is what the client saw; `cpu_seconds` of the whole cluster."""

    right: bool
    seconds: float
    cpu_seconds: float | None
    answer: Answer


@dataclass(slots=True)
class Samples:
    """What was measured: for each policy, a sample a question, in the same order."""

    by_policy: dict[str, list[Sample]] = field(default_factory=dict)


async def measure(
    client: AsyncClient,
    questions: Sequence[Question],
    policies: Sequence[str],
    *,
    seed: int,
    pids: Callable[[], Sequence[int]] | None,
    on_answer: Callable[[], None],
) -> Samples:
    """One question at a time; for each, the policies in an order drawn anew, so that drift hits all alike.

    Args:
        pids: processes whose CPU time is counted; None where the cluster is somebody else's.
        on_answer: told after each answer.
    """
    for question in questions[:WARM_UP]:
        for policy in policies:
            await client.ask(question.text, images=[question.image], policy=policy)
    rng = random.Random(seed)
    samples = Samples({policy: [] for policy in policies})
    for question in questions:
        for policy in rng.sample(list(policies), len(policies)):
            spent = cpu.seconds(pids()) if pids else None
            started = time.perf_counter()
            answer = await client.ask(question.text, images=[question.image], policy=policy)
            seconds = time.perf_counter() - started
            used = cpu.seconds(pids()) - spent if pids and spent is not None else None
            right = answer.answer.strip() == question.answer.strip()
            samples.by_policy[policy].append(Sample(right, seconds, used, answer))
            on_answer()
    return samples
