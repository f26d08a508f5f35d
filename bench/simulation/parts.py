"""Simulated draft, verifier and target: seeded, with faults, on whatever clock the loop has."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.simulation.scenario import Fault, Kind, Scenario
from services.common.errors import InvalidRequestError, LateError, OverloadedError, UnavailableError
from services.gateway.messages import (
    Drafted,
    Event,
    Judged,
    RivalDone,
    StartAnswer,
    StartDraft,
    StartRival,
    StartVerdict,
    Step,
    Verdict,
)
from services.gateway.parts import Answer, Progress

TOKENS = 20
SLOWER = 25.0
_ERRORS = {
    Kind.FAILS: UnavailableError("down"),
    Kind.LOST: UnavailableError("lost in the middle of it"),
    Kind.FULL: OverloadedError("full"),
    Kind.REFUSES: InvalidRequestError("too long"),
}


class SimulatedParts:
    """The `Parts` of one session.

    Args:
        late: told what a cancelled call says all the same.

    Attributes:
        running: calls under way.
        injected: faults that have hit, by kind.
    """

    def __init__(self, scenario: Scenario, late: Callable[[Event], None]) -> None:
        self.running = 0
        self.injected: Counter[Kind] = Counter()
        self._scenario = scenario
        self._late = late
        self._calls: Counter[str] = Counter()
        self._chance = random.Random(scenario.seed + 1)
        self._ends = asyncio.get_running_loop().time() + scenario.seconds

    def truth(self, prefix: tuple[str, ...]) -> Step:
        """The target's own step behind a prefix: the same one every time, and another behind another."""
        digest = hashlib.blake2b("|".join(prefix).encode(), digest_size=4, salt=b"truth").hexdigest()
        if len(prefix) + 1 >= self._scenario.steps:
            return Step(f"step {len(prefix)} {digest}", TOKENS, closes=True)
        stuck = self._scenario.stuck is not None and len(prefix) >= self._scenario.stuck
        text = "once more" if stuck else f"step {len(prefix)} {digest}"
        return Step(text, TOKENS, truncated=int(digest, 16) % 100 < 100 * self._scenario.cut)

    def granted(self) -> tuple[Step, ...]:
        """What an earlier gateway has committed; it may be all of the reasoning."""
        steps: list[Step] = []
        while len(steps) < self._scenario.granted and not (steps and steps[-1].closes):
            steps.append(self.truth(tuple(step.text for step in steps)))
        return tuple(steps)

    async def draft(self, start: StartDraft) -> AsyncGenerator[Step, None]:
        """See Parts."""
        prefix = start.prefix
        with self._call("draft", Drafted(start.call, Step("late"))) as fault:
            for _ in range(start.steps):
                await self._work("draft", fault)
                step = self.truth(prefix)
                if self._chance.random() > self._scenario.acceptance:
                    ends = step.closes != (self._chance.random() < 0.1)
                    step = replace(step, text=f"{step.text} or so {start.lane}", closes=ends)
                if fault and fault.kind is Kind.SILENT:
                    return
                yield step
                if step.closes or step.truncated:
                    return
                prefix += (step.text,)
                if fault and fault.kind is Kind.LOST:
                    raise _ERRORS[Kind.LOST]

    async def rival(self, start: StartRival) -> AsyncGenerator[Step | Progress, None]:
        """See Parts."""
        prefix = start.prefix
        with self._call("rival", RivalDone(start.call, Step("late", closes=True))) as fault:
            for _ in range(start.steps or 1_000):
                yield Progress(1)
                await self._work("rival", fault)
                if fault and fault.kind is Kind.SILENT:
                    return
                step = self.truth(prefix)
                yield step
                if step.closes or step.truncated:
                    return
                prefix += (step.text,)
                if fault and fault.kind is Kind.LOST:
                    raise _ERRORS[Kind.LOST]

    async def verdict(self, start: StartVerdict) -> Verdict:
        """See Parts."""
        with self._call("verdict", Judged(start.call, Verdict(accept=True))) as fault:
            await self._work("verdict", fault)
            right = start.candidate.text == self.truth(start.prefix).text
            accept = right != (self._chance.random() < self._scenario.noise)
            return Verdict(accept, score=0.9 if accept else 0.1, alpha=0.7, mass=1.0)

    async def answer(self, start: StartAnswer) -> Answer:
        """See Parts."""
        with self._call("answer", None) as fault:
            await self._work("answer", fault)
            return Answer("42", 1, truncated=False)

    @contextmanager
    def _call(self, part: str, late: Event | None) -> Iterator[Fault | None]:
        number = self._calls[part]
        self._calls[part] += 1
        fault = next((fault for fault in self._scenario.faults if fault.hits(part, number)), None)
        if fault:
            self.injected[fault.kind] += 1
        self.running += 1
        try:
            yield fault
        except (asyncio.CancelledError, GeneratorExit):
            if fault and fault.kind is Kind.LATE and late is not None:
                self._late(late)
            raise
        finally:
            self.running -= 1

    async def _work(self, part: str, fault: Fault | None) -> None:
        """A step's time, or what comes instead of it."""
        seconds = self._scenario.costs[part] * self._chance.uniform(0.5, 1.5)
        if fault:
            match fault.kind:
                case Kind.SLOW:
                    seconds *= SLOWER
                case Kind.HANGS:
                    await asyncio.sleep(max(0.0, self._ends - asyncio.get_running_loop().time()))
                    raise LateError("no answer within the deadline")
                case Kind.FAILS | Kind.FULL | Kind.REFUSES:
                    await asyncio.sleep(seconds / 2)
                    raise _ERRORS[fault.kind]
        await asyncio.sleep(seconds)
