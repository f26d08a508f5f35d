"""A target that many sessions share, under a virtual clock: iterations as an engine on a GPU has them."""

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from services.gateway.messages import StartAnswer, StartDraft, StartRival, StartVerdict, Step, Verdict
from services.gateway.parts import Answer, Progress

STEPS, STEP_TOKENS, ANSWER_TOKENS = 8, 40, 5


@dataclass(frozen=True)
class Times:
    """Seconds: `base` an iteration of the target, `share` more for a sequence that decodes and `verdict` more
    for a prompt that is judged; `draft` a drafted step.
    """

    base: float
    share: float
    verdict: float
    draft: float


@dataclass
class SharedTarget:
    """Computes for all that ask, iteration by iteration."""

    times: Times
    _written: dict[object, int] = field(default_factory=dict)
    _judging: list[asyncio.Future[None]] = field(default_factory=list)
    _iterated: asyncio.Event = field(default_factory=asyncio.Event)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Iterates for ever, while there is something to do."""
        while True:
            while not (self._written or self._judging):
                self._wanted.clear()
                await self._wanted.wait()
            judged, self._judging = self._judging, []
            decoding = list(self._written)
            times = self.times
            await asyncio.sleep(times.base + times.share * len(decoding) + times.verdict * len(judged))
            for sequence in decoding:
                if sequence in self._written:
                    self._written[sequence] += 1
            for one in judged:
                if not one.done():
                    one.set_result(None)
            self._iterated.set()
            self._iterated = asyncio.Event()

    async def tokens(self) -> AsyncGenerator[int, None]:
        """How many tokens a sequence has, behind each iteration."""
        with self._sequence() as sequence:
            while True:
                await self._iterated.wait()
                yield self._written[sequence]

    async def judge(self) -> None:
        """Takes part in the next iteration."""
        judged = asyncio.get_running_loop().create_future()
        self._judging.append(judged)
        self._wanted.set()
        await judged

    @contextmanager
    def _sequence(self) -> Iterator[object]:
        sequence = object()
        self._written[sequence] = 0
        self._wanted.set()
        try:
            yield sequence
        finally:
            del self._written[sequence]


@dataclass(frozen=True)
class SharingParts:
    """`Parts` of one session; its draft is right with a probability of `acceptance`."""

    target: SharedTarget
    seed: int
    acceptance: float

    async def draft(self, start: StartDraft) -> AsyncGenerator[Step, None]:
        """See Parts."""
        for index in range(start.index, min(start.index + start.steps, STEPS)):
            await asyncio.sleep(self.target.times.draft)
            right = random.Random(f"{self.seed} {index}").random() < self.acceptance
            yield _step(f"{'right' if right else 'wrong'} {index}", index)

    async def rival(self, start: StartRival) -> AsyncGenerator[Step | Progress, None]:
        """See Parts."""
        count = min(start.steps or STEPS, STEPS - start.index)
        async for tokens in self.target.tokens():
            yield Progress(tokens)
            if tokens and tokens % STEP_TOKENS == 0:
                index = start.index + tokens // STEP_TOKENS - 1
                yield _step(f"own {index}", index)
                if tokens == count * STEP_TOKENS:
                    return

    async def verdict(self, start: StartVerdict) -> Verdict:
        """See Parts."""
        await self.target.judge()
        return Verdict(accept=start.candidate.text.startswith("right"))

    async def answer(self, start: StartAnswer) -> Answer:
        """See Parts."""
        async for tokens in self.target.tokens():
            if tokens == ANSWER_TOKENS:
                break
        return Answer("42", ANSWER_TOKENS, truncated=False)


def _step(text: str, index: int) -> Step:
    return Step(text, tokens=STEP_TOKENS, closes=index == STEPS - 1)
