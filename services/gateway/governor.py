"""The governor: how far each session speculates, from what calls take and what is accepted.

One for a gateway; it decides by `costs.py`. It knows neither gRPC nor asyncio: the driver tells it of calls,
and asks after each commit.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.gateway.costs import Costs, best
from services.gateway.messages import (
    Author,
    StartAnswer,
    StartDraft,
    StartGrace,
    StartRival,
    StartVerdict,
    Verdict,
)
from services.gateway.policy import Policy
from services.gateway.speculation import Speculation
from services.gateway.token_time import TokenTime

# A gateway's first decisions wait for as many observations of each kind: until then it speculates.
ENOUGH = 8
# How many observations back an average reaches, give or take.
MEMORY = 32
# A session's own acceptance counts as much as the gateway's after so many verdicts, and each commit dims it.
OWN_WEIGHT, OWN_MEMORY = 8.0, 0.95
# What speculation must promise to be taken up again: two levels that are as good would take turns.
MARGIN = 0.05
# One session in so many speculates although it should not, so that its costs stay known.
PROBE_EVERY = 16

Start = StartDraft | StartRival | StartVerdict | StartAnswer | StartGrace


class Governs(Protocol):
    """What the driver needs: told of one session's calls, asked for its level."""

    def began(self, start: Start) -> None:
        """A call begins."""

    def wrote(self, start: Start, tokens: int, seconds: float) -> None:
        """A call wrote a step in `seconds`."""

    def judged(self, seconds: float) -> None:
        """A verdict came after `seconds`."""

    def ended(self, start: Start) -> None:
        """A call is over, however it ended."""

    def committed(self, author: Author, tokens: int, verdict: Verdict | None) -> None:
        """A step was committed, with the verdict on the candidate of its position."""

    def level(self) -> Speculation:
        """How far to speculate from here on."""

    def close(self) -> None:
        """The session is over."""


class Ungoverned:
    """Full speculation, whatever happens."""

    def began(self, start: Start) -> None:
        """See Governs."""

    def wrote(self, start: Start, tokens: int, seconds: float) -> None:
        """See Governs."""

    def judged(self, seconds: float) -> None:
        """See Governs."""

    def ended(self, start: Start) -> None:
        """See Governs."""

    def committed(self, author: Author, tokens: int, verdict: Verdict | None) -> None:
        """See Governs."""

    def level(self) -> Speculation:
        """See Governs."""
        return Speculation.FULL

    def close(self) -> None:
        """See Governs."""


@dataclass(slots=True)
class Average:
    """A mean that forgets."""

    value: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more observation."""
        self.count += 1
        self.value += (value - self.value) / min(self.count, MEMORY)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A moment: when it was, sequence-seconds that the target decoded until then, and verdicts."""

    at: float
    decoded: float
    judged: int


class Governor:
    """What all sessions of a gateway have seen of the cluster.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.token_time = TokenTime()
        self.token = Average()
        self.draft = Average()
        self.verdict_tokens = Average()
        self.verdicts = Average()
        self.step_tokens = Average()
        self.acceptance = Average()
        self.sessions = 0
        self.judged = 0
        self._opened = 0
        self._decoding = 0
        self._last = _Mark(clock(), 0.0, 0)

    def session(self, policy: Policy) -> "SessionGovernor":
        """The governor of a session that begins; close it at the end."""
        self._opened += 1
        self.sessions += 1
        return SessionGovernor(self, policy, probes=self._opened % PROBE_EVERY == 0)

    def mark(self, more_decoding: int = 0) -> _Mark:
        """This moment; from it on the target decodes for so many more calls."""
        now = self._clock()
        decoded = self._last.decoded + self._decoding * (now - self._last.at)
        self._decoding += more_decoding
        self._last = _Mark(now, decoded, self.judged)
        return self._last

    def costs(self) -> Costs | None:
        """What calls take; None until enough is known."""
        needed = (self.draft, self.verdict_tokens, self.verdicts, self.step_tokens, self.acceptance)
        if min(self.token_time.count, *(average.count for average in needed)) < ENOUGH:
            return None
        base, share, verdict = self.token_time.fit()
        return Costs(
            base=base,
            share=share,
            verdict=verdict,
            draft=self.draft.value,
            verdict_tokens=self.verdict_tokens.value,
            verdicts=self.verdicts.value,
            step_tokens=self.step_tokens.value,
        )


class SessionGovernor:
    """One session's part of it.

    Args:
        probes: it speculates even where the governor advises against it.
    """

    def __init__(self, governor: Governor, policy: Policy, *, probes: bool) -> None:
        self._governor = governor
        self._policy = policy
        self._probes = probes
        self._level = Speculation.FULL
        self._marks: dict[int, _Mark] = {}
        self._judged = 0
        self._accepted = self._weight = 0.0

    def began(self, start: Start) -> None:
        """See Governs."""
        if _decodes(start):
            self._marks[start.call] = self._governor.mark(1)

    def ended(self, start: Start) -> None:
        """See Governs."""
        if self._marks.pop(start.call, None):
            self._governor.mark(-1)

    def wrote(self, start: Start, tokens: int, seconds: float) -> None:
        """See Governs."""
        if isinstance(start, StartDraft):
            self._governor.draft.add(seconds)
        elif (before := self._marks.get(start.call)) and tokens:
            now = self._marks[start.call] = self._governor.mark()
            elapsed = max(now.at - before.at, 1e-9)
            self._governor.token.add(elapsed / tokens)
            self._governor.token_time.observe(
                elapsed / tokens,
                decoding=(now.decoded - before.decoded) / elapsed,
                verdicts=(now.judged - before.judged) / tokens,
            )

    def judged(self, seconds: float) -> None:
        """See Governs."""
        self._judged += 1
        self._governor.judged += 1
        if self._governor.token.count:
            self._governor.verdict_tokens.add(seconds / self._governor.token.value)

    def committed(self, author: Author, tokens: int, verdict: Verdict | None) -> None:
        """See Governs."""
        self._governor.step_tokens.add(tokens)
        self._accepted *= OWN_MEMORY
        self._weight *= OWN_MEMORY
        if verdict and self._policy.governed:
            accepted = author is Author.DRAFT
            self._governor.acceptance.add(accepted)
            self._governor.verdicts.add(self._judged)
            self._accepted += accepted
            self._weight += 1
        self._judged = 0

    def level(self) -> Speculation:
        """See Governs."""
        if not self._policy.governed or (costs := self._governor.costs()) is None:
            return Speculation.FULL
        common = self._governor.acceptance.value
        acceptance = (OWN_WEIGHT * common + self._accepted) / (OWN_WEIGHT + self._weight)
        seconds = best(costs, self._governor.sessions, acceptance, self._policy.window)
        alone = seconds.pop(Speculation.NONE)
        ((level, speculating),) = seconds.items()
        gain = alone / speculating - 1
        stops = gain <= 0 or (gain < MARGIN and self._level is Speculation.NONE)
        self._level = Speculation.NONE if stops and not self._probes else level
        return self._level

    def close(self) -> None:
        """See Governs."""
        for _ in self._marks:
            self._governor.mark(-1)
        self._marks.clear()
        self._governor.sessions -= 1


def _decodes(start: Start) -> bool:
    """Whether the target generates for it."""
    return isinstance(start, StartRival) or (isinstance(start, StartAnswer) and start.author is Author.TARGET)
