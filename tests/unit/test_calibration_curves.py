"""ROC, AUC, precision and recall against their definitions; intervals hold what they are about."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bench.calibration.curves import NO_SCORE, Judgements

SCORE = some.one_of(some.sampled_from([0.0, 0.5, 1.0, NO_SCORE]), some.floats(0, 1))
STEPS = some.lists(some.tuples(SCORE, some.booleans(), some.integers(0, 4)), min_size=1, max_size=30)


def judgements(steps: list[tuple[float, bool, int]], **options: bool) -> Judgements:
    scores, right, questions = zip(*steps, strict=True)
    return Judgements(scores, right, questions, **options)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_auc_is_how_often_a_right_step_scores_above_a_wrong_one(steps: list[tuple[float, bool, int]]) -> None:
    good = [score for score, right, _ in steps if right]
    bad = [score for score, right, _ in steps if not right]
    found = judgements(steps).auc()
    if not good or not bad:
        assert found is None
        return
    wins = sum((first > second) + 0.5 * (first == second) for first in good for second in bad)
    assert found is not None
    assert found.value == pytest.approx(wins / (len(good) * len(bad)))
    if found.ci95:
        assert 0 <= found.ci95[0] <= found.ci95[1] <= 1


@given(STEPS, some.floats(0, 1), some.booleans())
@settings(max_examples=60, deadline=None)
def test_precision_and_recall_are_shares_of_what_alpha_accepts(
    steps: list[tuple[float, bool, int]], alpha: float, equal: bool
) -> None:
    point = judgements(steps, accepts_equal=equal).at(alpha)
    accepted = [
        right
        for score, right, _ in steps
        if score != NO_SCORE and (score > alpha or (equal and score >= alpha - 1e-9))
    ]
    assert point.accepted == pytest.approx(len(accepted) / len(steps))
    assert (point.precision is None) == (not accepted)
    if point.precision:
        assert point.precision.value == pytest.approx(sum(accepted) / len(accepted))
    right = sum(right for _, right, _ in steps)
    assert (point.recall is None) == (not right)
    if point.recall:
        assert point.recall.value == pytest.approx(sum(accepted) / right)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_the_roc_rises_from_nothing_to_everything(steps: list[tuple[float, bool, int]]) -> None:
    roc = judgements(steps).roc()
    if not roc:
        assert len({right for _, right, _ in steps}) == 1
        return
    assert roc[0][1:] == (0, 0)
    assert roc[-1][1:] == (1, 1)
    for (alpha, wrong, right), (lower, more_wrong, more_right) in pairwise(roc):
        assert alpha >= lower
        assert wrong <= more_wrong
        assert right <= more_right
        assert 0 <= lower <= 1


def test_a_step_without_a_score_is_accepted_by_no_alpha() -> None:
    found = judgements([(NO_SCORE, True, 0), (0.5, True, 1)], accepts_equal=True)
    assert found.at(0).accepted == 0.5


def test_more_questions_make_the_interval_narrower() -> None:
    few = [(0.9, True, 0), (0.2, False, 1), (0.4, True, 2), (0.6, False, 3), (0.8, True, 4)]
    many = [(score, right, 5 * copy + question) for copy in range(20) for score, right, question in few]

    def width(steps: list[tuple[float, bool, int]]) -> float:
        found = judgements(steps).auc()
        assert found
        assert found.ci95
        assert found.ci95[0] <= found.value <= found.ci95[1]
        return found.ci95[1] - found.ci95[0]

    assert width(many) < width(few) / 2


def test_steps_of_one_question_are_no_more_than_one_question() -> None:
    # Ten questions, copied as further questions, or as further steps of the same ones.
    once = [(number / 10, number % 3 > 0, number) for number in range(10)]
    apart = [(score, right, 10 * copy + question) for copy in range(20) for score, right, question in once]
    together = [(score, right, question) for _ in range(20) for score, right, question in once]
    first, second = judgements(apart).at(0.45).precision, judgements(together).at(0.45).precision
    assert first
    assert second
    assert first.value == pytest.approx(second.value)
    assert first.ci95
    assert second.ci95
    assert first.ci95[1] - first.ci95[0] < (second.ci95[1] - second.ci95[0]) / 2


def test_each_step_needs_a_label() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        Judgements([], [], [])
    with pytest.raises(ValueError, match="for each step"):
        Judgements([0.5], [True, False], [0])
