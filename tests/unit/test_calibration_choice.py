"""Which alpha is taken: the fastest within the tolerance, the strictest where speed cannot be told apart."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bench.calibration.choice import Run, cannot_judge, choose, outcomes
from bench.statistics import Estimate


def run(mean: float, right: int, count: int = 200, noise: float = 0.3) -> Run:
    """Latencies around a mean, and so many right answers; the same questions are hard for all."""
    chance = random.Random(7)
    hard = [1 + noise * chance.random() for _ in range(count)]
    return Run([mean * one for one in hard], [number < right for number in range(count)])


TARGET = run(1.0, 194)


def test_the_fastest_that_loses_nothing() -> None:
    found = choose(TARGET, {0.5: run(0.4, 180), 0.7: run(0.5, 194), 0.9: run(0.7, 194)}, 0.005)
    assert found.alpha == 0.7


def test_a_loss_within_the_tolerance_is_allowed() -> None:
    runs = {0.5: run(0.4, 192), 0.9: run(0.7, 194)}
    assert choose(TARGET, runs, 0.005).alpha == 0.9
    assert choose(TARGET, runs, 0.01).alpha == 0.5


def test_where_speed_cannot_be_told_apart_the_strictest_is_taken() -> None:
    noisy = Run([0.501 * (1 + 0.2 * (number % 2)) for number in range(200)], TARGET.right)
    quiet = Run([0.5 * (1 + 0.2 * ((number + 1) % 2)) for number in range(200)], TARGET.right)
    found = choose(TARGET, {0.5: quiet, 0.9: noisy}, 0.005)
    assert found.alpha == 0.9
    assert "0.5, and 0.9 is not surely slower" in found.why


def test_without_one_that_keeps_the_accuracy_there_is_none() -> None:
    found = choose(TARGET, {0.5: run(0.4, 180), 0.9: run(0.5, 185)}, 0.005)
    assert found.alpha is None
    assert "loses more than 0.5%" in found.why


def test_what_is_not_proven_is_said() -> None:
    few = choose(TARGET, {0.9: run(0.5, 194)}, 0.005)
    assert (few.alpha, few.certain) == (0.9, False)
    assert "not proven by 200 questions" in few.why
    many = choose(run(1.0, 1900, 2000), {0.9: run(0.5, 1900, 2000)}, 0.005)
    assert many.certain


@given(
    some.dictionaries(
        some.sampled_from([0.3, 0.5, 0.7, 0.9, 0.95]),
        some.tuples(some.floats(0.2, 2.0), some.integers(30, 40)),
        min_size=1,
    ),
    some.sampled_from([0.0, 0.05, 0.1]),
)
@settings(max_examples=40, deadline=None)
def test_whatever_is_chosen_is_allowed_and_nothing_allowed_is_surely_faster(
    made: dict[float, tuple[float, int]], tolerance: float
) -> None:
    target = run(1.0, 36, 40)
    runs = {alpha: run(mean, right, 40) for alpha, (mean, right) in made.items()}
    found = choose(target, runs, tolerance)
    allowed = {one.alpha: one for one in outcomes(target, runs) if one.within(tolerance)}
    assert (found.alpha is None) == (not allowed)
    if found.alpha is not None:
        best = max(one.speedup.value for one in allowed.values())
        assert found.alpha in allowed
        interval = allowed[found.alpha].speedup.ci95
        assert interval
        # The latencies of two alphas differ by a factor only, so that any difference is a sure one.
        assert allowed[found.alpha].speedup.value == pytest.approx(best)


@pytest.mark.parametrize(
    ("auc", "judges"),
    [
        (Estimate(0.9, (0.8, 0.95)), True),
        (Estimate(0.9, (0.55, 0.99)), False),
        (Estimate(0.52, (0.45, 0.6)), False),
        (Estimate(0.2, (0.1, 0.3)), False),
        (None, False),
    ],
)
def test_a_judge_that_cannot_judge_is_called_so(auc: Estimate | None, judges: bool) -> None:
    warning = cannot_judge(auc)
    assert (warning is None) is judges
    if auc and warning:
        assert "a judge that cannot judge" in warning
