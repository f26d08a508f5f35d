"""Quantiles, and paired bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5_000

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval."""

    value: float
    ci95: tuple[float, float]


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile (0..1), interpolated."""
    return float(np.quantile(np.asarray(values), share))


def ratio_of_means(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Estimate:
    """mean(above) / mean(below), of pairs measured on the same questions."""
    return _paired(above, below, lambda first, second: first.mean(-1) / second.mean(-1), seed)


def difference_of_means(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Estimate:
    """mean(first) - mean(second), of pairs measured on the same questions."""
    return _paired(first, second, lambda one, other: one.mean(-1) - other.mean(-1), seed)


def _paired(
    first: Sequence[float], second: Sequence[float], figure: Callable[[Values, Values], Values], seed: int
) -> Estimate:
    """Percentile bootstrap over pairs: questions are drawn, and each brings both its values."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(one) != len(other) or not len(one):
        raise ValueError("pairs are needed: as many values of one as of the other, and at least one")
    drawn = np.random.default_rng(seed).integers(0, len(one), (RESAMPLES, len(one)))
    low, high = np.quantile(figure(one[drawn], other[drawn]), (0.025, 0.975))
    return Estimate(float(figure(one, other)), (float(low), float(high)))
