"""A fake of the cluster for the driver: it says what it is told to, and remembers what was stopped."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from services.common.errors import ServiceError
from services.gateway.messages import StartAnswer, StartDraft, StartRival, StartVerdict, Step, Verdict
from services.gateway.parts import Answer, Progress

STEPS = ("one .", "two .", "three .")


@dataclass
class FakeParts:
    """Draft and target agree on STEPS unless told otherwise. Delays in seconds.

    Attributes:
        wrong: positions at which the draft writes something else, which the verifier rejects.
        failures: what a part raises, by name.
    """

    draft_delay: float = 0.001
    rival_delay: float = 0.05
    verdict_delay: float = 0.001
    wrong: frozenset[int] = frozenset()
    failures: dict[str, ServiceError] = field(default_factory=dict)
    running: int = 0
    stopped: list[str] = field(default_factory=list)

    async def _work(self, part: str, seconds: float) -> None:
        self.running += 1
        try:
            if part in self.failures:
                raise self.failures[part]
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.stopped.append(part)
            raise
        finally:
            self.running -= 1

    def _step(self, index: int, text: str) -> Step:
        return Step(text, tokens=5, closes=index == len(STEPS) - 1)

    async def draft(self, start: StartDraft) -> AsyncGenerator[Step, None]:
        for index in range(start.index, min(start.index + start.steps, len(STEPS))):
            await self._work("draft", self.draft_delay)
            yield self._step(index, "wrong" if index in self.wrong else STEPS[index])

    async def rival(self, start: StartRival) -> AsyncGenerator[Step | Progress, None]:
        last = start.index + (start.steps or len(STEPS))
        for index in range(start.index, min(last, len(STEPS))):
            yield Progress(2)
            await self._work("rival", self.rival_delay)
            yield self._step(index, STEPS[index])

    async def verdict(self, start: StartVerdict) -> Verdict:
        await self._work("verdict", self.verdict_delay)
        accept = start.candidate.text == STEPS[start.index]
        return Verdict(accept, score=0.9 if accept else 0.1, alpha=0.7, mass=1.0)

    async def answer(self, start: StartAnswer) -> Answer:
        await self._work("answer", 0.001)
        return Answer("42", 1, truncated=False)
