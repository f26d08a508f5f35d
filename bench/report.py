"""Samples as JSON and as a table."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from statistics import fmean
from typing import Any

from rich.table import Table

from bench.models import MODELS
from bench.prediction import predicted_speedup
from bench.runner import Measured, Sample, round_size
from bench.statistics import difference_of_means, quantile, ratio_of_means
from bench.waiting import PARTS, waited
from services.gateway.policy import FPSR
from services.gateway.speculation import Speculation

BASELINE = "target"


Levels = Mapping[int, dict[str, Measured]]
"""What was measured, by concurrency and policy."""


def to_json(workers: Mapping[int, Levels], *, seed: int, pair: str) -> dict[str, Any]:
    """Figures of each policy, and the others against `target` where it was measured.

    Args:
        workers: by number of draft workers. The lowest one's figures are the report's own; with other numbers
            than one, `draft_workers` has all. So it is with each one's concurrencies and `levels`.
    """
    found = {count: _levels(levels) for count, levels in sorted(workers.items())}
    report = {"pair": pair, "seed": seed, "environment": environment(), **found[min(found)]}
    if list(found) != [1]:
        report["draft_workers"] = [{"draft_workers": count, **figures} for count, figures in found.items()]
    return report


def _levels(levels: Levels) -> dict[str, Any]:
    found = [{"concurrency": level, **_level(level, measured)} for level, measured in sorted(levels.items())]
    return found[0] | ({"levels": found} if len(found) > 1 else {})


def _level(concurrency: int, measured: dict[str, Measured]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "questions": len(next(iter(measured.values())).samples),
        "policies": {name: _figures(found) for name, found in measured.items()},
        "speedup": {},
        "accuracy_difference": {},
        "throughput_ratio": {},
        "efficiency": {name: _efficiency(found.samples) for name, found in measured.items()},
    }
    baseline = measured.get(BASELINE)
    for name, found in measured.items() if baseline else ():
        if name == BASELINE:
            continue
        assert baseline is not None
        block = round_size(concurrency)
        speedup = ratio_of_means(_seconds(baseline.samples), _seconds(found.samples), block)
        report["speedup"][name] = {"ratio": speedup.value, "ci95": speedup.ci95}
        accuracy = difference_of_means(
            [one.right for one in found.samples], [one.right for one in baseline.samples], block
        )
        report["accuracy_difference"][name] = {"value": accuracy.value, "ci95": accuracy.ci95}
        if name == FPSR.name and concurrency == 1:
            report["predicted_speedup"] = {name: predicted_speedup(found.samples, baseline.samples)}
        report["throughput_ratio"][name] = baseline.wall_seconds / found.wall_seconds
        report["policies"][name]["same_steps_as_target"] = fmean(
            [step.text for step in one.answer.steps] == [step.text for step in own.answer.steps]
            for one, own in zip(found.samples, baseline.samples, strict=True)
        )
    return report


def table(report: dict[str, Any]) -> Table:
    """The report for a reader."""
    level = report["concurrency"]
    at_once = "one at a time" if level == 1 else f"{level} at a time"
    turns = "question by question" if level == 1 else f"in rounds of {round_size(level)}"
    shown = Table(title=f"{report['questions']} questions, {at_once}, policies in turn {turns}")
    for column in (
        *("policy", "accuracy", "mean s", "p50 s", "p95 s", "speedup (95%)", "per s", "tokens", "accepted"),
        *("wasted", "CPU s", "efficiency"),
    ):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    for name, figures in report["policies"].items():
        latency = figures["latency_seconds"]
        speedup = report["speedup"].get(name)
        ratio = "1" if name == BASELINE else ""
        if speedup:
            interval = speedup["ci95"]
            ratio = f"{speedup['ratio']:.2f}"
            ratio += f" ({interval[0]:.2f}..{interval[1]:.2f})" if interval else ""
        accepted, spent = figures["acceptance"], figures["cpu_seconds"]
        efficient, missing = report["efficiency"][name], figures["not_replayed"]
        replayed = len(latency["samples"]) - missing
        shown.add_row(
            name,
            f"{figures['accuracy']:.1%}",
            *(f"{latency[key]:.3f}" for key in ("mean", "p50", "p95")),
            ratio,
            f"{figures['answers_per_second']:.2f}",
            f"{figures['tokens_per_answer']:.0f}",
            "" if accepted is None else f"{accepted:.1%}",
            f"{figures['wasted_tokens']:.0f}",
            "" if spent is None else f"{spent:.2f}",
            "" if efficient is None else f"{efficient:.2f}" + (f" of {replayed}" if missing else ""),
        )
    return shown


def waits(report: dict[str, Any]) -> Table:
    """Where the time goes: milliseconds that a question waited for each part."""
    title = "milliseconds a question waited for"
    for name, predicted in report.get("predicted_speedup", {}).items():
        if predicted:
            title += f"; the cost model predicts a speedup of {predicted:.2f} for {name}"
    shown = Table(title=title)
    shown.add_column("policy")
    for part in PARTS:
        shown.add_column(part, justify="right")
    for name, figures in report["policies"].items():
        shown.add_row(name, *(f"{figures['waited_seconds'][part] * 1000:.0f}" for part in PARTS))
    return shown


def scaling(report: dict[str, Any]) -> Table:
    """What more draft workers give: tokens drafted per second under full load, against the fewest workers."""
    shown = Table(title="tokens drafted by several workers")
    for column in ("policy", "at a time", "workers", "drafted per s", "ratio", "of linear"):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    entries = report["draft_workers"]
    for number, first in enumerate(by_level(entries[0])):
        for name, figures in first["policies"].items():
            for entry in entries if figures["drafted_tokens_per_second"] else ():
                drafted = by_level(entry)[number]["policies"][name]["drafted_tokens_per_second"]
                ratio = drafted / figures["drafted_tokens_per_second"]
                linear = entry["draft_workers"] / entries[0]["draft_workers"]
                shown.add_row(
                    *(name, str(first["concurrency"]), str(entry["draft_workers"])),
                    *(f"{drafted:.0f}", f"{ratio:.2f}", f"{ratio / linear:.0%}"),
                )
    return shown


def by_level(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of each concurrency, the lowest first."""
    levels: list[dict[str, Any]] = report.get("levels", [report])
    return levels


def _figures(measured: Measured) -> dict[str, Any]:
    found, spent = measured.samples, measured.spent
    totals = [one.answer.totals for one in found]
    seconds = _seconds(found)
    judged = sum(total.accepted + total.rejected for total in totals)
    wasted = {model: _wasted(measured, model) for model in MODELS}
    waiting = [waited(one.answer, one.seconds) for one in found]

    def mean(of: Callable[[Any], float]) -> float:
        return fmean(map(of, totals))

    return {
        "accuracy": fmean(one.right for one in found),
        "latency_seconds": {
            "mean": fmean(seconds),
            "p50": quantile(seconds, 0.5),
            "p95": quantile(seconds, 0.95),
            "samples": seconds,
        },
        "answers_per_second": len(found) / measured.wall_seconds,
        # While every place was taken: with empty ones the draft waits for questions.
        "drafted_tokens_per_second": measured.full_drafted / measured.full_seconds if spent else None,
        "tokens_per_answer": mean(lambda total: total.draft.committed_tokens + total.target.committed_tokens),
        "steps_per_answer": fmean(len(one.answer.steps) for one in found),
        "acceptance": sum(total.accepted for total in totals) / judged if judged else None,
        "wasted_tokens": sum(wasted.values()),
        "wasted_tokens_by_model": wasted,
        "waited_seconds": {part: fmean(one[part] for one in waiting) for part in PARTS},
        "busy_seconds": {
            "draft": mean(lambda total: total.draft.busy_seconds),
            "target": mean(lambda total: total.target.busy_seconds),
            "verifier": mean(lambda total: total.verifier.busy_seconds),
        },
        "cpu_seconds": spent.cpu_seconds / len(found) if spent else None,
        "speculation": {level.value: _share(found, level) for level in Speculation},
        "degraded": sum(bool(one.answer.degraded) for one in found),
        "not_replayed": sum(one.bound is None for one in found),
    }


def _efficiency(found: Sequence[Sample]) -> float | None:
    """The bound over what was measured: how much of the time is the parts' own critical path.

    Sessions that could not be played again are left out, and counted as `not_replayed`.
    """
    pairs = [(one.bound, one.seconds) for one in found if one.bound is not None]
    return sum(bound for bound, _ in pairs) / sum(seconds for _, seconds in pairs) if pairs else None


def _wasted(measured: Measured, model: str) -> float:
    """Tokens an answer that stand nowhere in it; verdicts' one token each among the target's.

    The engines know of every token. Of a cluster that is not ours the calls' reports are all there is, and a
    call that was cancelled between two reports is told too cheap.
    """
    totals = [getattr(one.answer.totals, model) for one in measured.samples]
    if measured.spent is None:
        return fmean(total.wasted_tokens for total in totals)
    committed: int = sum(total.committed_tokens for total in totals)
    return (measured.spent.tokens[model] - committed) / len(totals)


def _share(found: Sequence[Sample], level: Speculation) -> float:
    """Of the commits behind which the session was to speculate so far."""
    return fmean(step.speculation == level for one in found for step in one.answer.steps)


def _seconds(found: Sequence[Sample]) -> list[float]:
    return [one.seconds for one in found]


def environment() -> dict[str, Any]:
    packages = ("grpcio", "torch", "transformers", "nvidia-pytriton")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **versions,
    }
