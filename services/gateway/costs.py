"""What a position costs at each level of speculation: the model that the governor decides by.

Derived in `docs/governor.md`. It extends the speedup of Lookahead Reasoning (arXiv 2506.19830, section 3) by
verdicts that take time, by a window of any size, and by a target that many sessions share.
"""

from dataclasses import dataclass

from services.gateway.speculation import Speculation

_BUSIEST = 0.98  # share of the target's time that verdicts can take; beyond it there is no steady state
_HALVINGS = 24


@dataclass(frozen=True, slots=True)
class Costs:
    """What the calls of a gateway take, in seconds unless told otherwise.

    An iteration of the target takes `base`, and `share` more for each sequence that decodes. A verdict keeps
    the target busy for `verdict`.

    Attributes:
        start: until a call of the target has begun to write.
        draft: a drafted step.
        verdict_tokens: how long a verdict is waited for, over the time of a token of the target.
        verdicts: judged candidates a committed position; above 1 where some stood behind a rejected one.
        step_tokens: tokens of a committed step.
    """

    base: float
    share: float
    verdict: float
    start: float
    draft: float
    verdict_tokens: float
    verdicts: float
    step_tokens: float

    def alone(self, sessions: int) -> float:
        """Seconds a position while all `sessions` reason with the target alone, each in one call."""
        return self.step_tokens * (self.base + self.share * sessions)

    def speculating(self, level: Speculation, sessions: int, acceptance: float, window: int) -> float:
        """Seconds a position while all `sessions` speculate at `level`, which is not NONE.

        The more positions a second, the more verdicts, the slower the target, the fewer positions a second:
        the solution is where both agree.
        """
        low, high = 0.0, 1.0
        while self._position(level, sessions, acceptance, window, high) > high:
            low, high = high, high * 2
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self._position(level, sessions, acceptance, window, middle) > middle:
                low = middle
            else:
                high = middle
        return high

    def worth_rivals(self, sessions: int, acceptance: float, seconds: float) -> bool:
        """Whether rivals should run before their candidates are judged.

        A rival that runs x seconds before its candidate is judged saves x with the probability of a reject;
        with that of an accept it was for nothing. What it takes from other calls to the target is what they
        take from it (the target's time is shared out evenly): x times its stretch. So rivals run iff
        1 - acceptance > acceptance * stretch.

        Args:
            seconds: of a position with FULL speculation.
        """
        token = (self.base + self.share * sessions) / (1 - self._busy(sessions, seconds))
        stretch = 1 - (self.base + self.share) / token
        return 1 - acceptance > acceptance * stretch

    def _busy(self, sessions: int, seconds: float) -> float:
        """Share of the target's time that verdicts take."""
        return min(_BUSIEST, sessions * self.verdicts * self.verdict / max(seconds, 1e-9))

    def _decoding(self, sessions: int, rejected: float, seconds: float, busy: float) -> float:
        """Sequences that decode where the target writes behind a reject only: as many as stand there, each
        for as long as its step takes, which itself depends on how many there are.
        """
        free = seconds * (1 - busy) - sessions * rejected * self.step_tokens * self.share
        wanted = sessions * rejected * self.step_tokens * self.base
        return sessions if wanted >= sessions * free else wanted / free

    def _position(
        self, level: Speculation, sessions: int, acceptance: float, window: int, seconds: float
    ) -> float:
        """Seconds that a position takes at the load that positions of `seconds` make."""
        rejected = 1 - acceptance
        busy = self._busy(sessions, seconds)
        full = level is Speculation.FULL
        decoding = sessions if full else self._decoding(sessions, rejected, seconds, busy)
        token = (self.base + self.share * decoding) / (1 - busy)
        target, verdict = self.start + self.step_tokens * token, self.verdict_tokens * token
        first = self.draft + verdict
        following = max(self.draft, first / window)
        total = rejected * first + acceptance * following + rejected * target
        if full:
            total -= rejected * (rejected * min(first, target) + acceptance * min(following, target))
        # However short a position's own way is: all the verdicts must pass through the target.
        return max(total, sessions * self.verdicts * self.verdict / _BUSIEST)


@dataclass(frozen=True, slots=True)
class Offer:
    """The best that speculation can do.

    Attributes:
        seconds: a position.
        alone: what it takes without speculation.
    """

    level: Speculation
    seconds: float
    alone: float


def offer(costs: Costs, sessions: int, acceptance: float, window: int) -> Offer:
    """How far to speculate if at all, and what that gives."""
    level = Speculation.FULL
    seconds = costs.speculating(level, sessions, acceptance, window)
    if not costs.worth_rivals(sessions, acceptance, seconds):
        level = Speculation.AFTER_REJECT
        seconds = costs.speculating(level, sessions, acceptance, window)
    return Offer(level, seconds, costs.alone(sessions))
