"""The prediction is the cost model's, from single calls."""

from dataclasses import replace

import pytest

from bench.prediction import predicted_speedup
from bench.runner import Sample
from dreamr.events import Answer, Author, Commit, ModelTotals, Totals, Verdict, VerifierTotals

TOTALS = Totals(
    0, 0, 0, 0, 0, ModelTotals(0, 0, 0, 0, 0, 0), ModelTotals(0, 0, 0, 0, 0, 0), VerifierTotals(0, 0, 0)
)


def sample(*steps: Commit) -> Sample:
    seconds = steps[-1].committed + 0.5
    return Sample(True, seconds, Answer("42", "p", "s", steps, TOTALS, seconds, ()), None)


def step(index: int, began: float, ended: float, verdict: Verdict | None) -> Commit:
    author: Author = "draft" if verdict and verdict.accept else "target"
    return Commit(index, "text", author, 40, False, verdict, began, ended, ended)


def judged(accept: bool) -> Verdict:
    return Verdict(accept, "score", 0.9, 0.1, 0.9, 0.7, 1.0, 0.1)


ALONE = [sample(step(0, 0, 2, None), step(1, 2, 4, None))]


def test_half_of_the_drafts_are_accepted() -> None:
    # A drafted step takes 0.2 s, a verdict 0.1, the target's own step 2, the answer 0.5.
    found = [sample(step(0, 0.0, 0.2, judged(True)), step(1, 0.3, 2.3, judged(False)))]
    first, rejected = 0.3, 2.0
    position = 0.5 * rejected + 0.5 * (0.5 * first + 0.5 * 0.2)
    assert predicted_speedup(found, ALONE) == pytest.approx((2 * 2 + 0.5) / (2 * position + 0.5))


def test_a_commit_tells_the_level_of_the_next_position() -> None:
    first, second = step(0, 0.0, 0.2, judged(True)), step(1, 0.3, 2.3, None)
    found = [sample(replace(first, speculation="none"), second)]
    # All were accepted: one position at the draft's pace (a verdict in its window), one at the target's.
    assert predicted_speedup(found, ALONE) == pytest.approx((2 * 2 + 0.5) / (0.2 + 2 + 0.5))


def test_what_equals_the_rival_was_accepted_too() -> None:
    found = [sample(step(0, 0.0, 0.2, judged(True)), step(1, 0.2, 0.4, replace(judged(True), seconds=0.0)))]
    assert predicted_speedup(found, ALONE) == pytest.approx((2 * 2 + 0.5) / (2 * 0.2 + 0.5))


def test_without_a_verdict_there_is_nothing_to_go_by() -> None:
    assert predicted_speedup(ALONE, ALONE) is None
