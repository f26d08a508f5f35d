"""How well scores tell right steps from wrong ones: ROC, AUC, precision and recall. Pure.

Intervals are percentile bootstraps over questions: steps of one question are drawn together, since they share
its image and its difficulty.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from bench.statistics import Estimate

RESAMPLES = 2_000
BLOCK = 100

Values = NDArray[np.float64]

NO_SCORE = -1.0
"""Stands for a step that no alpha accepts, below every score."""


@dataclass(frozen=True, slots=True)
class Point:
    """What an alpha does to the steps that were judged.

    Attributes:
        accepted: share of all steps.
        precision: share of the accepted that are right; None where nothing is accepted.
        recall: share of the right that are accepted; None where nothing is right.
    """

    alpha: float
    accepted: float
    precision: Estimate | None
    recall: Estimate | None


class Judgements:
    """Scores and labels of steps.

    Args:
        scores: within 0..1, or NO_SCORE.
        right: whether the step is.
        questions: which one each step belongs to.
        accepts_equal: a score equal to alpha is accepted, as with the digit.

    Raises:
        ValueError: not as many of one as of the others, or none.
    """

    def __init__(
        self,
        scores: Sequence[float],
        right: Sequence[bool],
        questions: Sequence[int],
        *,
        accepts_equal: bool = False,
        seed: int = 0,
    ) -> None:
        if not len(scores) == len(right) == len(questions) or not len(scores):
            raise ValueError(
                "a score, a label and a question are needed for each step, and at least one step"
            )
        self._scores = np.asarray(scores, dtype=np.float64)
        self._right = np.asarray(right, dtype=bool)
        _, self._question = np.unique(np.asarray(questions), return_inverse=True)
        self._accepts_equal = accepts_equal
        self._seed = seed

    @property
    def right(self) -> int:
        """How many are."""
        return int(self._right.sum())

    @property
    def wrong(self) -> int:
        """How many are."""
        return int((~self._right).sum())

    def auc(self) -> Estimate | None:
        """How often a right step scores above a wrong one, ties counting half; None without both kinds."""
        if not self.right or not self.wrong:
            return None
        (value,) = self._aucs(np.ones((1, len(self._scores))))
        drawn = np.concatenate([self._aucs(weights) for weights in self._resampled()])
        return Estimate(float(value), _interval(drawn))

    def _aucs(self, weights: Values) -> Values:
        """One for each row of how often each step counts, of those rows that have both kinds."""
        order = np.argsort(self._scores)
        scores, right, weights = self._scores[order], self._right[order], weights[:, order]
        pro, contra = weights * right, weights * ~right
        # Wrong steps below each place; a step stands above those before its ties, and half above these.
        below = np.pad(contra.cumsum(1), ((0, 0), (1, 0)))
        first, last = (np.searchsorted(scores, scores, side) for side in ("left", "right"))
        wins = (pro * (below[:, first] + below[:, last]) / 2).sum(1)
        pairs = pro.sum(1) * contra.sum(1)
        found: Values = wins[pairs > 0] / pairs[pairs > 0]
        return found

    def roc(self) -> list[tuple[float, float, float]]:
        """(alpha, share of the wrong accepted, share of the right accepted), the strictest alpha first.

        A step with exactly that score counts as accepted. Empty without both kinds.
        """
        if not self.right or not self.wrong:
            return []
        false, true, alphas = roc_curve(self._right, self._scores)
        found = zip(alphas.tolist(), false.tolist(), true.tolist(), strict=True)
        return [(min(1.0, max(0.0, alpha)), wrong, right) for alpha, wrong, right in found]

    def at(self, alpha: float) -> Point:
        """What this alpha does."""
        above = self._scores >= alpha - 1e-9 if self._accepts_equal else self._scores > alpha
        accepted = above & (self._scores != NO_SCORE)
        return Point(
            alpha,
            float(accepted.mean()),
            self._share(accepted & self._right, accepted),
            self._share(accepted & self._right, self._right),
        )

    def _share(self, part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> Estimate | None:
        """How much of the whole the part is."""
        if not whole.any():
            return None
        drawn = [weights @ np.stack([part, whole], 1) for weights in self._resampled()]
        parts, wholes = np.concatenate(drawn).T
        shares = parts[wholes > 0] / wholes[wholes > 0]
        return Estimate(float(part.sum() / whole.sum()), _interval(shares))

    def _resampled(self) -> Iterator[Values]:
        """How often each step is drawn, [BLOCK, steps] at a time."""
        count = int(self._question.max()) + 1
        rng = np.random.default_rng(self._seed)
        for _ in range(RESAMPLES // BLOCK):
            drawn = rng.multinomial(count, np.full(count, 1 / count), size=BLOCK)
            yield drawn[:, self._question].astype(np.float64)


def _interval(drawn: Values) -> tuple[float, float] | None:
    if not len(drawn):
        return None
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
