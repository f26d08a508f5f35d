"""Figures from samples: against the target, by level, and what the engines say of waste."""

import pytest

from bench.meter import Reading
from bench.report import scaling, table, to_json, waits
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
    return Measured(samples, wall_seconds=3 * seconds, spent=spent, full_seconds=2 * seconds, full_drafted=24)


def test_policies_are_compared_with_the_target() -> None:
    report = to_json(
        {1: {1: {"target": measured("target", 2.0), "fpsr": measured("fpsr", 1.0)}}}, seed=1, pair="p"
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
    # The engine drafted 24 tokens in the two seconds of full load.
    assert figures["drafted_tokens_per_second"] == pytest.approx(12)
    assert {"levels", "draft_workers"}.isdisjoint(report)
    assert table(report).row_count == waits(report).row_count == 2


def test_of_a_cluster_that_is_not_ours_the_calls_tell_the_waste() -> None:
    found = measured("target", 1.0)
    found.spent = None
    figures = to_json({1: {1: {"target": found}}}, seed=1, pair="p")["policies"]["target"]
    assert (figures["wasted_tokens"], figures["cpu_seconds"]) == (3, None)
    assert figures["drafted_tokens_per_second"] is None


def test_several_levels_are_listed() -> None:
    levels = {4: {"target": measured("target", 2.0)}, 1: {"target": measured("target", 1.0)}}
    report = to_json({1: levels}, seed=1, pair="p")
    assert [level["concurrency"] for level in report["levels"]] == [1, 4]
    assert report["policies"] == report["levels"][0]["policies"]


def test_other_steps_than_the_targets_are_seen() -> None:
    found = {"target": measured("target", 2.0), "exact": measured("exact", 2.0, text="b")}
    report = to_json({1: {1: found}}, seed=1, pair="p")
    assert report["policies"]["exact"]["same_steps_as_target"] == 0


def test_more_draft_workers_are_compared_with_the_fewest() -> None:
    idle = measured("target", 2.0)
    idle.full_drafted = 0

    def levels(seconds: float) -> dict[int, dict[str, Measured]]:
        return {
            8: {"target": idle, "fpsr": measured("fpsr", seconds)},
            1: {"target": idle, "fpsr": measured("fpsr", 2 * seconds)},
        }

    report = to_json({4: levels(0.5), 2: levels(0.75)}, seed=1, pair="p")
    assert [entry["draft_workers"] for entry in report["draft_workers"]] == [2, 4]
    assert report["levels"] == report["draft_workers"][0]["levels"]
    rows = list(zip(*(column.cells for column in scaling(report).columns), strict=True))
    # Twice the workers draft 1.5 times as much; the target alone drafts nothing.
    assert rows == [
        ("fpsr", "1", "2", "8", "1.00", "100%"),
        ("fpsr", "1", "4", "12", "1.50", "75%"),
        ("fpsr", "8", "2", "16", "1.00", "100%"),
        ("fpsr", "8", "4", "24", "1.50", "75%"),
    ]


def test_another_number_of_draft_workers_than_one_is_told() -> None:
    report = to_json({4: {1: {"fpsr": measured("fpsr", 1.0)}}}, seed=1, pair="p")
    assert [entry["draft_workers"] for entry in report["draft_workers"]] == [4]
