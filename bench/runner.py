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
from bench.variant import Variant
from dreamr.client import AsyncClient
from dreamr.events import Answer, Event

WARM_UP = 3
# A question waits for its place in the bench, not in the gateway; beyond this something is stuck.
_SECONDS = 600.0
ROUND = 4
"""Questions of a round for each one at the same time. Towards a round's end fewer and fewer are under way, so
what is told of throughput is a little too low; the longer the round, the less.
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One question under one policy.

    Attributes:
        seconds: what the client saw.
        bound: seconds of the critical path through its calls; None where it could not be found.
    """

    right: bool
    seconds: float
    answer: Answer
    bound: float | None


@dataclass(slots=True)
class Measured:
    """One policy: a sample a question, in the same order as the other policies'.

    Attributes:
        wall_seconds: that all of them took, those at the same time counted once.
        spent: by the whole cluster; None where it is somebody else's.
        full_seconds: of `wall_seconds` those in which as many were under way as may be.
        full_drafted: tokens that the draft generated in them.
    """

    samples: list[Sample] = field(default_factory=list)
    wall_seconds: float = 0.0
    spent: Reading | None = None
    full_seconds: float = 0.0
    full_drafted: int = 0


def asked_at(concurrency: int, count: int) -> int:
    """How many questions a level asks, of which `count` are wanted: whole rounds, or places stay empty."""
    size = round_size(concurrency)
    return -(-count // size) * size


def round_size(concurrency: int) -> int:
    """Questions that a policy is asked before the next one's turn."""
    return 1 if concurrency == 1 else ROUND * concurrency


async def warm_up(client: AsyncClient, questions: Sequence[Question], policies: Sequence[str]) -> None:
    """Some questions under every policy, all at the same time: the first ones of a cluster take longer."""
    async with asyncio.TaskGroup() as group:
        for number, question in enumerate(questions[:WARM_UP]):
            for variant in dict.fromkeys(Variant.parse(name).warm_up() for name in policies):
                images = [cold(image, f"warm-up {number} {variant.name}") for image in question.images]
                group.create_task(client.ask(question.text, images=images, **variant.options()))


async def measure(
    client: AsyncClient,
    questions: Sequence[Question],
    policies: Sequence[str],
    *,
    seed: int,
    concurrency: int,
    governor: bool | None = None,
    meter: Meter | None,
    on_answer: Callable[[], None],
) -> dict[str, Measured]:
    """Rounds of questions; in each the policies come in an order drawn anew, so that drift hits all alike.

    A single policy has none to take turns with, and asks all in one round. No policy finds another's work in
    a cache: see `bench.questions.cold`.

    Args:
        policies: names, or variants as `bench.variant` has them.
        concurrency: questions at the same time; a round has four times as many, or is a single one.
        governor: whether sessions may speculate less than they could; None as each policy has it.
        meter: of the cluster; None where it is somebody else's.
        on_answer: told after each answer.
    """
    run = f"{seed} {concurrency}"
    rng = random.Random(seed)
    found = {policy: Measured() for policy in policies}
    size = round_size(concurrency) if len(policies) > 1 else len(questions)
    for start in range(0, len(questions), size):
        for policy in rng.sample(list(policies), len(policies)):
            asked = questions[start : start + size]
            images = [
                [cold(image, f"{run} {start + at} {policy}") for image in one.images]
                for at, one in enumerate(asked)
            ]
            before = await meter.read() if meter else None
            began = time.perf_counter()
            answered, full = await _round(
                client, asked, images, policy, concurrency, governor, meter, on_answer
            )
            ended = time.perf_counter()
            measured = found[policy]
            # The session tells its window by itself.
            sizes = {name: size for name, size in Variant.parse(policy).sizes if name != "window"}
            measured.wall_seconds += ended - began
            if meter and before:
                after = await meter.read()
                spent = after.since(before)
                measured.spent = measured.spent + spent if measured.spent else spent
                until, reading = full or (ended, after)
                measured.full_seconds += until - began
                measured.full_drafted += reading.since(before).tokens["draft"]
            for question, (seconds, events) in zip(asked, answered, strict=True):
                answer = Answer.of(events)
                right = question.is_right(answer.answer)
                # In a thread: the replay has an event loop of its own.
                least = await asyncio.to_thread(bound, events, **sizes)
                measured.samples.append(Sample(right, seconds, answer, least))
    return found


async def _round(
    client: AsyncClient,
    questions: Sequence[Question],
    images: Sequence[Sequence[bytes]],
    policy: str,
    concurrency: int,
    governor: bool | None,
    meter: Meter | None,
    on_answer: Callable[[], None],
) -> tuple[list[tuple[float, list[Event]]], tuple[float, Reading] | None]:
    """Seconds and events of each question, so many of them at a time.

    And the time until which every place was taken, with what was spent by then; None where that is the end.
    """
    places = asyncio.Semaphore(concurrency)
    waiting = len(questions)
    emptied = asyncio.Event()

    async def ask(question: Question, images: Sequence[bytes]) -> tuple[float, list[Event]]:
        nonlocal waiting
        async with places:
            waiting -= 1
            began = time.perf_counter()
            stream = client.reason(
                question.text,
                images=images,
                **Variant.parse(policy).options(),
                governor=governor,
                activity=True,
                timeout=_SECONDS,
            )
            async with aclosing(stream) as happened:
                events = [event async for event in happened]
            seconds = time.perf_counter() - began
        if not waiting:
            emptied.set()
        on_answer()
        return seconds, events

    async def read(meter: Meter) -> tuple[float, Reading]:
        await emptied.wait()
        return time.perf_counter(), await meter.now()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(*one)) for one in zip(questions, images, strict=True)]
        full = group.create_task(read(meter)) if meter and concurrency > 1 else None
    return [task.result() for task in tasks], full.result() if full else None
