"""Asks every question under every policy, interleaved, in one run."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from bench.bound import bound
from bench.meter import Meter, Reading
from bench.questions import Question, cold
from dreamr.client import AsyncClient
from dreamr.events import Answer

WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One question under one policy. `seconds` is what the client saw; `spent` by the whole cluster.

    Attributes:
        bound: seconds of the critical path through its calls; None where it could not be found.
    """

    right: bool
    seconds: float
    spent: Reading | None
    answer: Answer
    bound: float | None = None


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
            stream = client.reason(question.text, images=[image], policy=policy, activity=True)
            async with aclosing(stream) as happened:
                events = [event async for event in happened]
            seconds = time.perf_counter() - started
            answer = Answer.of(events)
            spent = (await meter.read()).since(before) if meter and before else None
            right = answer.answer.strip() == question.answer.strip()
            # In a thread: the replay has an event loop of its own.
            least = await asyncio.to_thread(bound, events)
            samples.by_policy[policy].append(Sample(right, seconds, spent, answer, least))
            on_answer()
    return samples
