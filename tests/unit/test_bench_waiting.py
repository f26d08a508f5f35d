"""A session's time is split without a rest."""

import pytest

from bench.waiting import waited
from dreamr.events import Answer, Commit, ModelTotals, Totals, Verdict, VerifierTotals


def commit(index: int, author: str, written: float, committed: float) -> Commit:
    verdict = Verdict(True, "score", 0.9, 0.1, 0.9, 0.7, 1.0, 0.01) if author == "draft" else None
    return Commit(
        index=index,
        text="step",
        author="draft" if author == "draft" else "target",
        tokens=5,
        closes=False,
        verdict=verdict,
        started=0.0,
        written=written,
        committed=committed,
    )


def test_what_held_up_each_commit() -> None:
    steps = (
        commit(0, "draft", 0.1, 0.15),
        commit(1, "draft", 0.12, 0.2),  # written before the commit in front of it: no wait for the draft
        commit(2, "target", 0.7, 0.7),
    )
    nothing = ModelTotals(0, 0, 0, 0, 0, 0.0)
    totals = Totals(2, 1, 2, 1, 0, nothing, nothing, VerifierTotals(0, 0, 0.0))
    found = waited(Answer("42", "fpsr", "session", steps, totals, 0.9, ()), seconds=1.0)
    assert found == pytest.approx(
        {"draft": 0.1, "verdict": 0.1, "target": 0.5, "answer": 0.2, "outside": 0.1}
    )
    assert sum(found.values()) == pytest.approx(1.0)
