"""The governor: how far each session speculates, from what calls take and what is accepted.

One for a gateway; it decides by `costs.py`. It knows neither gRPC nor asyncio: the driver tells it of calls,
and asks behind each commit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from services.gateway.average import Average
from services.gateway.costs import Costs, offer
from services.gateway.messages import Author, Reason, Start, StartAnswer, StartRival, Verdict
from services.gateway.policy import Policy
from services.gateway.speculation import Speculation
from services.gateway.token_time import TokenTime

# A gateway's first decisions wait for as many observations of each kind, and until then it speculates: the
# first calls to models that have just started are slower than all that follow.
ENOUGH = 64
# A session's own acceptance counts as much as the gateway's after so many verdicts, and each commit dims it.
OWN_WEIGHT, OWN_MEMORY = 8.0, 0.95
# What speculation must promise to be taken up again: two levels that are as good would take turns.
MARGIN = 0.05
# One position in so many is speculated on although that should not pay, so that its costs stay known.
PROBE_EVERY = 32


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time.

    Attributes:
        decoded: seconds that the target decoded until then, added up over its sequences.
        judged: verdicts until then.
    """

    at: float = 0.0
    decoded: float = 0.0
    judged: int = 0


@dataclass(frozen=True, slots=True)
class _Call:
    """A call for which the target decodes: since when, and since when and which token its pace is known."""

    began: float
    pace_from: Moment | None = None
    tokens: int = 0


class Governor:
    """What all sessions of a gateway have seen of the cluster. All times are on one clock, in seconds.

    Attributes:
        sessions: under way.
        judged: verdicts so far.
        declined: positions so far for which speculation was not worth it.
    """

    def __init__(self) -> None:
        self.token_time = TokenTime()
        self.token = Average()
        self.start = Average()
        self.draft = Average()
        self.verdict_tokens = Average()
        self.verdicts = Average()
        self.step_tokens = Average()
        self.acceptance = Average()
        self.sessions = 0
        self.judged = 0
        self.declined = 0
        self._decoding = 0
        self._last = Moment()

    @contextmanager
    def session(self, policy: Policy) -> Iterator["SessionGovernor"]:
        """The governor of one session, which lasts as long as the block."""
        found = SessionGovernor(self, policy)
        self.sessions += 1
        try:
            yield found
        finally:
            self.sessions -= 1
            found.close()

    def moment(self, at: float, more_decoding: int = 0) -> Moment:
        """That moment; from it on the target decodes for so many more calls."""
        at = max(at, self._last.at)
        decoded = self._last.decoded + self._decoding * (at - self._last.at)
        self._decoding += more_decoding
        self._last = Moment(at, decoded, self.judged)
        return self._last

    def costs(self) -> Costs | None:
        """What calls take; None until enough is known."""
        needed = (self.start, self.draft, self.verdict_tokens, self.verdicts, self.acceptance)
        if min(self.token_time.count, *(average.count for average in needed)) < ENOUGH:
            return None
        base, share, verdict = self.token_time.fit()
        return Costs(
            base=base,
            share=share,
            # Nothing keeps the target busy for longer than it took.
            verdict=min(verdict, self.verdict_tokens.value * self.token.value),
            start=self.start.value,
            draft=self.draft.value,
            verdict_tokens=self.verdict_tokens.value,
            verdicts=self.verdicts.value,
            step_tokens=self.step_tokens.value,
        )


class SessionGovernor:
    """One session's part of it; see `Governs`."""

    def __init__(self, governor: Governor, policy: Policy) -> None:
        self._governor = governor
        self._policy = policy
        self._level = Speculation.FULL if policy.window else Speculation.NONE
        self._calls: dict[int, _Call] = {}
        self._judged = 0
        self._accepted = self._weight = 0.0

    def began(self, start: Start, at: float) -> None:
        """See Governs."""
        if _decodes(start):
            self._governor.moment(at, 1)
            self._calls[start.call] = _Call(at)

    def ended(self, start: Start, at: float) -> None:
        """See Governs."""
        if self._calls.pop(start.call, None):
            self._governor.moment(at, -1)

    def progressed(self, start: Start, tokens: int, at: float) -> None:
        """See Governs."""
        call = self._calls.get(start.call)
        if call is None or tokens <= call.tokens:
            return
        now = self._governor.moment(at)
        if (before := call.pace_from) is None:
            # What comes before the first tokens (hops, queue, prompt) is no part of the target's pace.
            self._governor.start.add(at - call.began)
        else:
            written, elapsed = tokens - call.tokens, max(now.at - before.at, 1e-9)
            if written < self._governor.step_tokens.value / 2:
                return
            self._governor.token.add(elapsed / written)
            self._governor.token_time.observe(
                elapsed / written,
                decoding=(now.decoded - before.decoded) / elapsed,
                verdicts=(now.judged - before.judged) / written,
            )
        self._calls[start.call] = replace(call, pace_from=now, tokens=tokens)

    def drafted(self, seconds: float) -> None:
        """See Governs."""
        self._governor.draft.add(seconds)

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
        # A verifier that is down says nothing of the draft.
        if verdict and verdict.reason is not Reason.UNAVAILABLE and self._policy.governed:
            accepted = author is Author.DRAFT
            self._governor.acceptance.add(accepted)
            self._governor.verdicts.add(self._judged)
            self._accepted += accepted
            self._weight += 1
        self._judged = 0

    def level(self) -> Speculation:
        """See Governs."""
        if not self._policy.governed or (costs := self._governor.costs()) is None:
            return self._level
        common = self._governor.acceptance.value
        acceptance = (OWN_WEIGHT * common + self._accepted) / (OWN_WEIGHT + self._weight)
        found = offer(costs, self._governor.sessions, acceptance, self._policy.window)
        gain = found.alone / found.seconds - 1
        if gain > MARGIN or (gain > 0 and self._level is not Speculation.NONE):
            self._level = found.level
            return found.level
        self._level = Speculation.NONE
        self._governor.declined += 1
        return found.level if self._governor.declined % PROBE_EVERY == 0 else Speculation.NONE

    def close(self) -> None:
        """The session is over: nothing decodes for it."""
        self._governor.moment(0.0, -len(self._calls))
        self._calls.clear()


def _decodes(start: Start) -> bool:
    """Whether the target generates for it."""
    return isinstance(start, StartRival) or (isinstance(start, StartAnswer) and start.author is Author.TARGET)
