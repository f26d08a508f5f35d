"""Quantiles and paired intervals."""

import numpy as np
import pytest

from bench.statistics import difference_of_means, histogram_quantile, quantile, ratio_of_means


def test_quantiles_interpolate() -> None:
    assert quantile([1, 2, 3, 4], 0.5) == 2.5


def test_a_ratio_of_pairs_is_narrow_where_the_pairs_vary_together() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 10, 200)
    estimate = ratio_of_means(list(base * 2), list(base))
    assert estimate.value == pytest.approx(2)
    assert estimate.ci95 == pytest.approx((2, 2))


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        first, second = rng.normal(2, 0.5, 100), rng.normal(1, 0.5, 100)
        interval = ratio_of_means(list(first), list(second), seed=trial).ci95
        assert interval
        hits += interval[0] <= 2 <= interval[1]
    assert 86 <= hits <= 100


def test_what_was_measured_at_the_same_time_is_drawn_together() -> None:
    # Rounds that differ, and questions within them that do not.
    above, below = np.repeat([1.0, 2.0, 3.0, 4.0, 5.0], 20), np.ones(100)
    single = ratio_of_means(list(above), list(below)).ci95
    rounds = ratio_of_means(list(above), list(below), block=20).ci95
    assert single
    assert rounds
    assert rounds[1] - rounds[0] > 3 * (single[1] - single[0])
    assert ratio_of_means(list(above[:60]), list(below[:60]), block=20).ci95 is None


def test_differences_of_shares() -> None:
    estimate = difference_of_means([True, True, False], [True, False, False])
    assert estimate.value == pytest.approx(1 / 3)


def test_the_quantile_of_a_histogram_is_a_bound_of_it() -> None:
    before = {("lag_bucket", "0.001"): 5.0, ("lag_bucket", "0.01"): 6.0, ("lag_bucket", "+Inf"): 6.0}
    after = {("lag_bucket", "0.001"): 14.0, ("lag_bucket", "0.01"): 16.0, ("lag_bucket", "+Inf"): 16.0}
    assert histogram_quantile(before, after, "lag_bucket", 0.5) == 0.001
    assert histogram_quantile(before, after, "lag_bucket", 0.95) == 0.01


def test_pairs_are_needed() -> None:
    with pytest.raises(ValueError, match="pairs"):
        ratio_of_means([1.0], [])
