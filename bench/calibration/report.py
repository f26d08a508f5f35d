"""A calibration as JSON, as tables, and as figures.

The JSON object:

- `pair`, `rule`, `seed`, `environment`;
- `questions`: how many, labelled by what, how many by the target's own answer, how many left out since the
  target alone answers them wrongly, and how many sessions were degraded;
- `steps`: `judged`, `right`, `wrong`, `unlabelled`; `auc` (`value`, `ci95`, or null); `roc` (alpha, share of
  the wrong steps accepted, share of the right ones); `by_alpha` (`alpha`, `accepted`, `precision`, `recall`);
  `samples`: every step with question, index, score (null: rejected at any alpha), reason, own (the target
  wrote the same) and right (null: not labelled);
- `runs`: the report of `dreamr bench` on whole sessions, or null; `by_alpha`: of these `alpha`, `accuracy`,
  `accuracy_difference` and its worst (`at_worst`), `speedup`, `acceptance`, `tokens_per_answer`;
- `choice`: `alpha` (or null), `certain`, `tolerance`, `why`; null without runs;
- `warnings`: in words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from bench.calibration.choice import Choice, Run, cannot_judge, choose, outcomes
from bench.calibration.collect import Collected
from bench.calibration.curves import NO_SCORE, Judgements, Point
from bench.report import BASELINE, environment, to_json
from bench.runner import Measured
from bench.statistics import Estimate
from bench.variant import Variant
from services.gateway.rule import Rule

GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Alphas that precision and recall are told for, beside those that whole sessions are run with."""


def report(
    collected: Collected,
    measured: Mapping[str, Measured],
    *,
    rule: Rule,
    alphas: Sequence[float],
    tolerance: float,
    pair: str,
    seed: int,
) -> dict[str, Any]:
    """All that was found.

    Args:
        measured: whole sessions, of the target alone and by alpha (`bench.variant`); may be empty.
        tolerance: share of the accuracy that may be lost.
    """
    steps, warnings = _steps(collected, rule, alphas)
    found: dict[str, Any] = {
        "pair": pair,
        "rule": rule.value,
        "seed": seed,
        "environment": environment(),
        "questions": {
            "count": len(collected.questions),
            "labelled_by": collected.labelled_by,
            "self_labelled": collected.self_labelled,
            "failed": collected.failed,
            "degraded": collected.degraded,
        },
        "steps": steps,
        "runs": None,
        "by_alpha": [],
        "choice": None,
        "warnings": warnings,
    }
    if measured:
        found["runs"] = to_json({1: {1: dict(measured)}}, seed=seed, pair=pair)
        target = _run(measured[BASELINE])
        runs = {
            alpha: _run(one)
            for name, one in measured.items()
            if (alpha := Variant.parse(name).alpha) is not None
        }
        found["by_alpha"] = [
            {
                "alpha": one.alpha,
                "accuracy": found["runs"]["policies"][name]["accuracy"],
                "accuracy_difference": _estimate(one.difference),
                "at_worst": one.lower,
                "speedup": _estimate(one.speedup),
                "acceptance": found["runs"]["policies"][name]["acceptance"],
                "tokens_per_answer": found["runs"]["policies"][name]["tokens_per_answer"],
            }
            for one in outcomes(target, runs)
            for name in measured
            if Variant.parse(name).alpha == one.alpha
        ]
        choice = choose(target, runs, tolerance)
        found["choice"] = asdict(choice) | {"tolerance": tolerance}
    if collected.degraded:
        warnings.append(f"in {collected.degraded} sessions a part of the cluster failed")
    return found


def choice_of(found: dict[str, Any]) -> Choice | None:
    """The choice of a report; None where whole sessions were not run."""
    chosen = found["choice"]
    return Choice(chosen["alpha"], chosen["certain"], chosen["why"]) if chosen else None


def _steps(collected: Collected, rule: Rule, alphas: Sequence[float]) -> tuple[dict[str, Any], list[str]]:
    labelled = [one for one in collected.candidates if one.right is not None]
    found: dict[str, Any] = {
        "judged": len(collected.candidates),
        "right": sum(one.right is True for one in labelled),
        "wrong": sum(one.right is False for one in labelled),
        "unlabelled": len(collected.candidates) - len(labelled),
        "auc": None,
        "roc": [],
        "by_alpha": [],
        "samples": [
            {
                "question": one.question,
                "index": one.index,
                "score": one.score,
                "reason": one.reason,
                "own": one.own,
                "right": one.right,
            }
            for one in collected.candidates
        ],
    }
    if not labelled:
        return found, ["no step could be labelled"]
    judgements = Judgements(
        [NO_SCORE if one.score is None else one.score for one in labelled],
        [bool(one.right) for one in labelled],
        [one.question for one in labelled],
        accepts_equal=rule is Rule.DIGIT,
    )
    auc = judgements.auc()
    found["auc"] = _estimate(auc) if auc else None
    found["roc"] = judgements.roc()
    found["by_alpha"] = [_point(judgements.at(alpha)) for alpha in sorted({*GRID, *alphas})]
    warning = cannot_judge(auc)
    return found, [warning] if warning else []


def _point(point: Point) -> dict[str, Any]:
    return {
        "alpha": point.alpha,
        "accepted": point.accepted,
        "precision": _estimate(point.precision) if point.precision else None,
        "recall": _estimate(point.recall) if point.recall else None,
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "ci95": estimate.ci95}


def _run(measured: Measured) -> Run:
    return Run([one.seconds for one in measured.samples], [one.right for one in measured.samples])


def tables(found: dict[str, Any]) -> list[Table]:
    """The report for a reader."""
    steps, auc = found["steps"], found["steps"]["auc"]
    title = (
        f"{steps['judged']} steps of the draft, {steps['wrong']} of {steps['right'] + steps['wrong']} wrong"
    )
    if auc:
        title += f"; AUC {shown(auc, '.3f')}"
    judged = Table(title=title)
    for column in ("alpha", "accepted", "precision (95%)", "recall (95%)"):
        judged.add_column(column, justify="right")
    for point in steps["by_alpha"]:
        judged.add_row(
            f"{point['alpha']:g}",
            f"{point['accepted']:.1%}",
            *(shown(point[name], ".1%") for name in ("precision", "recall")),
        )
    if not found["by_alpha"]:
        return [judged]
    runs = found["runs"]
    whole = Table(title=f"{runs['questions']} questions, one at a time, alphas in turn")
    for column in ("alpha", "accuracy", "difference (95%)", "speedup (95%)", "accepted", "tokens"):
        whole.add_column(column, justify="right")
    target = runs["policies"][BASELINE]
    whole.add_row("target", f"{target['accuracy']:.1%}", "", "1", "", f"{target['tokens_per_answer']:.0f}")
    for one in found["by_alpha"]:
        accepted = one["acceptance"]
        whole.add_row(
            f"{one['alpha']:g}",
            f"{one['accuracy']:.1%}",
            shown(one["accuracy_difference"], "+.1%"),
            shown(one["speedup"], ".2f"),
            "" if accepted is None else f"{accepted:.1%}",
            f"{one['tokens_per_answer']:.0f}",
        )
    return [judged, whole]


def shown(estimate: dict[str, Any] | None, form: str) -> str:
    """A figure with its interval, in words; empty where there is none."""
    if estimate is None:
        return ""
    text, interval = format(estimate["value"], form), estimate["ci95"]
    return f"{text} ({interval[0]:{form}} to {interval[1]:{form}})" if interval else text
