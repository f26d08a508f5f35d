"""Asks every question under every policy, interleaved, in one run."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.meter import Meter, Reading
from bench.questions import Question, cold
from dreamr.client import AsyncClient
from dreamr.events import Answer

WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One question under one policy. `seconds` is what the client saw; `spent` by the whole cluster."""

    right: bool
    seconds: float
    spent: Reading | None
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
    meter: Meter | None,
    on_answer: Callable[[], None],
) -> Samples:
    """One question at a time; for each, the policies in an order drawn anew, so that drift hits all alike.

    No policy finds another's work in a cache: see `bench.questions.cold`.

    Args:
        meter: of the cluster; None where it is somebody else's.
        on_answer: told after each answer.
    """
    for number, question in enumerate(questions[:WARM_UP]):
        for policy in policies:
            image = cold(question.image, f"warm-up {number} {policy}")
            await client.ask(question.text, images=[image], policy=policy)
    rng = random.Random(seed)
    samples = Samples({policy: [] for policy in policies})
    for number, question in enumerate(questions):
        for policy in rng.sample(list(policies), len(policies)):
            image = cold(question.image, f"{number} {policy}")
            before = await meter.read() if meter else None
            started = time.perf_counter()
            answer = await client.ask(question.text, images=[image], policy=policy)
            seconds = time.perf_counter() - started
            spent = (await meter.read()).since(before) if meter and before else None
            right = answer.answer.strip() == question.answer.strip()
            samples.by_policy[policy].append(Sample(right, seconds, spent, answer))
            on_answer()
    return samples
