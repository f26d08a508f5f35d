"""Which alpha to take: the fastest that costs no accuracy. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.statistics import Estimate, difference_of_means, ratio_of_means

JUDGES = 0.6
"""A judge whose AUC may be this low tells right from wrong hardly better than a coin, which has 0.5."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Run:
    """Whole sessions at one alpha, or of the target alone, on the same questions in the same order."""

    seconds: Sequence[float]
    right: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An alpha against the target alone.

    Attributes:
        difference: of accuracy, alpha's less the target's.
        lower: what the difference may be at worst: the interval's lower end, but no nearer to 0 than
            -3 / questions. Where nothing was lost in n questions, up to 3 / n may still be (95%, the "rule of
            three"), which a bootstrap cannot see.
        speedup: ratio of mean latencies.
    """

    alpha: float
    difference: Estimate
    lower: float
    speedup: Estimate

    def within(self, tolerance: float) -> bool:
        """Whether it lost no more than that of its accuracy."""
        return self.difference.value >= -tolerance - _ROUNDING


@dataclass(frozen=True, slots=True)
class Choice:
    """The alpha to use; None where every one costs more accuracy than it may.

    Attributes:
        certain: even at worst it costs no more than it may.
        why: in words.
    """

    alpha: float | None
    certain: bool
    why: str


def outcomes(target: Run, by_alpha: Mapping[float, Run]) -> list[Outcome]:
    """Every alpha against the target, in ascending order."""
    found = []
    for alpha, run in sorted(by_alpha.items()):
        difference = difference_of_means(run.right, target.right)
        low = difference.ci95[0] if difference.ci95 else difference.value
        lower = min(low, -3 / len(run.right))
        found.append(Outcome(alpha, difference, lower, ratio_of_means(target.seconds, run.seconds)))
    return found


def choose(target: Run, by_alpha: Mapping[float, Run], tolerance: float) -> Choice:
    """The fastest alpha whose accuracy is not below the target's by more than `tolerance` (a share).

    Accuracy counts as measured: a few hundred questions cannot prove a loss of half a point, and to ask for
    proof would choose nothing. What is not proven the choice says. Speed counts with its uncertainty: among
    the alphas that the fastest is not surely faster than (the paired interval of their ratio reaches 1), the
    strictest is taken, since it costs nothing that could be measured.
    """
    allowed = [one for one in outcomes(target, by_alpha) if one.within(tolerance)]
    if not allowed:
        return Choice(None, False, f"every alpha loses more than {tolerance:.1%} of accuracy")
    fastest = max(allowed, key=lambda one: one.speedup.value)
    as_fast = [one for one in allowed if _as_fast(by_alpha[one.alpha], by_alpha[fastest.alpha])]
    chosen = max(as_fast, key=lambda one: one.alpha)
    certain = chosen.lower >= -tolerance - _ROUNDING
    why = f"the fastest within {tolerance:.1%} of the target's accuracy"
    if chosen is not fastest:
        why += f" is {fastest.alpha:g}, and {chosen.alpha:g} is not surely slower"
    if not certain:
        why += f"; that it loses no more is not proven by {len(target.right)} questions"
    return Choice(chosen.alpha, certain, why)


def _as_fast(run: Run, fastest: Run) -> bool:
    ratio = ratio_of_means(fastest.seconds, run.seconds)
    return ratio.value >= 1 or ratio.ci95 is None or ratio.ci95[1] >= 1


def cannot_judge(auc: Estimate | None) -> str | None:
    """A warning where scores do not tell right steps from wrong ones, or where nobody can say."""
    if auc is None:
        return "no AUC: there are not both right and wrong steps; more questions are needed"
    low = auc.ci95[0] if auc.ci95 else auc.value
    if low > JUDGES:
        return None
    return f"a judge that cannot judge: its AUC is {auc.value:.3f} and may be {low:.3f}; chance is 0.5"
