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
        draft: a drafted step.
        verdict_tokens: how long a verdict is waited for, over the time of a token of the target.
        verdicts: judged candidates a committed position; above 1 where some stood behind a rejected one.
        step_tokens: tokens of a committed step.
    """

    base: float
    share: float
    verdict: float
    draft: float
    verdict_tokens: float
    verdicts: float
    step_tokens: float

    def alone(self, sessions: int) -> float:
        """Seconds a position while all `sessions` reason with the target alone."""
        return self.step_tokens * self._token(sessions, 0.0)

    def speculating(self, level: Speculation, sessions: int, acceptance: float, window: int) -> float:
        """Seconds a position while all `sessions` speculate at `level`.

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

    def stretch(self, sessions: int, acceptance: float, window: int) -> float:
        """Share of its time (0..1) that a rival of `FULL` speculation gives to other calls to the target."""
        seconds = self.speculating(Speculation.FULL, sessions, acceptance, window)
        return 1 - self._token(1, 0.0) / self._token(sessions, self._busy(sessions, seconds))

    def _token(self, decoding: float, busy: float) -> float:
        """Seconds a token, while verdicts take `busy` of the target's time."""
        return (self.base + self.share * decoding) / (1 - busy)

    def _busy(self, sessions: int, seconds: float) -> float:
        return min(_BUSIEST, sessions * self.verdicts * self.verdict / max(seconds, 1e-9))

    def _position(
        self, level: Speculation, sessions: int, acceptance: float, window: int, seconds: float
    ) -> float:
        """Seconds that a position takes at the load that positions of `seconds` make."""
        rejected = 1 - acceptance
        busy = self._busy(sessions, seconds)
        decoding = float(sessions)
        if level is Speculation.AFTER_REJECT:
            decoding *= min(1.0, rejected * self.alone(1) / max(seconds, 1e-9))
        token = self._token(decoding, busy)
        target, verdict = self.step_tokens * token, self.verdict_tokens * token
        first = self.draft + verdict
        following = max(self.draft, verdict / window)
        total = rejected * first + acceptance * following + rejected * target
        if level is Speculation.FULL:
            total -= rejected * (rejected * min(first, target) + acceptance * min(following, target))
        # However short a position's own way is: all the verdicts must pass through the target.
        return max(total, sessions * self.verdicts * self.verdict / _BUSIEST)


def best(costs: Costs, sessions: int, acceptance: float, window: int) -> dict[Speculation, float]:
    """Seconds a position at each level that the governor may choose.

    A rival that runs x seconds before its candidate is judged saves x with the probability of a reject; with
    that of an accept it was for nothing. What it takes from other calls to the target is what they take from
    it (the target's time is shared out evenly): x times its stretch. So rivals run from the start iff
    1 - acceptance > acceptance * stretch, and only one of the two levels is offered.
    """
    worth_it = 1 - acceptance > acceptance * costs.stretch(sessions, acceptance, window)
    level = Speculation.FULL if worth_it else Speculation.AFTER_REJECT
    return {
        level: costs.speculating(level, sessions, acceptance, window),
        Speculation.NONE: costs.alone(sessions),
    }
