"""Figures from samples: against the target, by level, and what the engines say of waste."""

import pytest

from bench.meter import Reading
from bench.report import table, to_json, waits
from bench.runner import Measured, Sample
from dreamr.events import Answer, Commit, ModelTotals, Totals, Verdict, VerifierTotals


def sample(policy: str, seconds: float, *, right: bool = True, text: str = "a") -> Sample:
    verdict = Verdict(True, "score", 0.9, 0.1, 0.9, 0.7, 1.0, 0.01)
    step = Commit(0, text, "draft", 10, True, verdict, 0.0, seconds / 2, seconds * 0.8)
    draft = ModelTotals(1, 0, 10, 10, 0, 0.1)
    target = ModelTotals(1, 0, 5, 2, 3, 0.1)
    totals = Totals(1, 0, 1, 0, 0, draft, target, VerifierTotals(1, 0, 0.1))
    answer = Answer("42", policy, "session", (step,), totals, seconds * 0.9, ())
    return Sample(right, seconds, answer, seconds * 0.8)


def measured(policy: str, seconds: float, *, text: str = "a") -> Measured:
    samples = [sample(policy, seconds * factor, text=text) for factor in (0.9, 1.0, 1.1)]
    spent = Reading(cpu_seconds=3.0, tokens={"draft": 36, "target": 30})
    return Measured(samples, wall_seconds=3 * seconds, spent=spent)


def test_policies_are_compared_with_the_target() -> None:
    report = to_json(
        {1: {"target": measured("target", 2.0), "fpsr": measured("fpsr", 1.0)}}, seed=1, pair="p"
    )
    assert report["speedup"]["fpsr"]["ratio"] == pytest.approx(2)
    assert report["throughput_ratio"]["fpsr"] == pytest.approx(2)
    assert report["efficiency"]["fpsr"] == pytest.approx(0.8)
    figures = report["policies"]["fpsr"]
    assert figures["latency_seconds"]["mean"] == pytest.approx(1)
    assert figures["latency_seconds"]["samples"] == pytest.approx([0.9, 1.0, 1.1])
    assert figures["cpu_seconds"] == pytest.approx(1)
    # Of the engines' 36 and 30 tokens in three answers, 10 and 2 an answer stand in them.
    assert figures["wasted_tokens_by_model"] == {"draft": 2.0, "target": 8.0}
    assert figures["same_steps_as_target"] == 1
    assert "levels" not in report
    assert table(report).row_count == waits(report).row_count == 2


def test_of_a_cluster_that_is_not_ours_the_calls_tell_the_waste() -> None:
    found = measured("target", 1.0)
    found.spent = None
    figures = to_json({1: {"target": found}}, seed=1, pair="p")["policies"]["target"]
    assert (figures["wasted_tokens"], figures["cpu_seconds"]) == (3, None)


def test_several_levels_are_listed() -> None:
    levels = {4: {"target": measured("target", 2.0)}, 1: {"target": measured("target", 1.0)}}
    report = to_json(levels, seed=1, pair="p")
    assert [level["concurrency"] for level in report["levels"]] == [1, 4]
    assert report["policies"] == report["levels"][0]["policies"]


def test_other_steps_than_the_targets_are_seen() -> None:
    report = to_json(
        {1: {"target": measured("target", 2.0), "exact": measured("exact", 2.0, text="b")}}, seed=1, pair="p"
    )
    assert report["policies"]["exact"]["same_steps_as_target"] == 0
