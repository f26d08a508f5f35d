"""Quantiles, and paired bootstrap intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 5_000
FEWEST_BLOCKS = 4
"""Fewer rounds tell nothing of how much rounds differ."""

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval; None where there is too little to draw from."""

    value: float
    ci95: tuple[float, float] | None


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile (0..1), interpolated."""
    return float(np.quantile(np.asarray(values), share))


def histogram_quantile(
    before: Mapping[tuple[str, str], float], after: Mapping[tuple[str, str], float], name: str, share: float
) -> float:
    """The bound below which `share` of what a Prometheus histogram observed between two readings lies.

    Args:
        before: samples by name and bound, as `dreamr.cluster.metrics.scrape` reads them; so is `after`.
        name: with `_bucket` at its end.
    """
    counts = {
        float(bound): count - before.get((found, bound), 0.0)
        for (found, bound), count in after.items()
        if found == name
    }
    return min(bound for bound, count in counts.items() if count >= share * counts[float("inf")])


def ratio_of_means(above: Sequence[float], below: Sequence[float], block: int = 1, seed: int = 0) -> Estimate:
    """mean(above) / mean(below), of pairs measured on the same questions; for `block` see `_paired`."""
    return _paired(above, below, lambda first, second: first.mean(-1) / second.mean(-1), block, seed)


def difference_of_means(
    first: Sequence[float], second: Sequence[float], block: int = 1, seed: int = 0
) -> Estimate:
    """mean(first) - mean(second), of pairs measured on the same questions; for `block` see `_paired`."""
    return _paired(first, second, lambda one, other: one.mean(-1) - other.mean(-1), block, seed)


def _paired(
    first: Sequence[float],
    second: Sequence[float],
    figure: Callable[[Values, Values], Values],
    block: int,
    seed: int,
) -> Estimate:
    """Percentile bootstrap over pairs: questions are drawn, and each brings both its values.

    Args:
        block: so many pairs in a row are drawn together: they were measured at the same time, and what
            slowed one of them slowed all.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(one) != len(other) or not len(one):
        raise ValueError("pairs are needed: as many values of one as of the other, and at least one")
    blocks = np.array_split(np.arange(len(one)), -(-len(one) // block))
    value = float(figure(one, other))
    if block > 1 and len(blocks) < FEWEST_BLOCKS:
        return Estimate(value, None)
    # Blocks of one length: the last one may be shorter, and then goes without its like's last pairs.
    size = min(map(len, blocks))
    rows = np.stack([rows[:size] for rows in blocks])
    drawn = rows[np.random.default_rng(seed).integers(0, len(rows), (RESAMPLES, len(rows)))]
    drawn = drawn.reshape(RESAMPLES, -1)
    low, high = np.quantile(figure(one[drawn], other[drawn]), (0.025, 0.975))
    return Estimate(value, (float(low), float(high)))
