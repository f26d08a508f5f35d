"""Figures of a calibration, as SVG files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.calibration.report import shown
from bench.plots import GREY, axes_of
from bench.report import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREEN = "#0072B2", "#E69F00", "#009E73"


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the figures that the report has figures for, and returns their paths.

    `roc.svg` where steps were labelled as right and as wrong, `alpha.svg` where some are accepted and some
    are right, `pareto.svg` where whole sessions were run.

    Raises:
        OSError: the folder cannot be written.
    """
    figures = {
        "roc": (bool(report["steps"]["roc"]), _roc),
        "alpha": (bool(_points(report)), _alpha),
        "pareto": (bool(report["by_alpha"]), _pareto),
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (known, figure) in figures.items():
        if known:
            path = folder / f"{name}.svg"
            with axes_of(path) as axes:
                figure(report, axes)
            written.append(path)
    return written


def _roc(report: dict[str, Any], axes: "Axes") -> None:
    """Right steps accepted against wrong steps accepted."""
    from matplotlib.ticker import PercentFormatter

    steps = report["steps"]
    _, wrong, right = zip(*steps["roc"], strict=True)
    label = f"AUC {shown(steps['auc'], '.3f')}"
    axes.plot(wrong, right, color=_BLUE, label=label, drawstyle="steps-post")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.set_title(_judged(report))
    axes.set_xlabel("wrong steps accepted")
    axes.set_ylabel("right steps accepted")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid()
    axes.legend(loc="lower right")


def _alpha(report: dict[str, Any], axes: "Axes") -> None:
    """What each alpha accepts."""
    from matplotlib.ticker import PercentFormatter

    points = _points(report)
    alphas = [point["alpha"] for point in points]
    for name, label, colour, marker in (
        ("precision", "precision: of the accepted, right", _BLUE, "o"),
        ("recall", "recall: of the right, accepted", _ORANGE, "^"),
    ):
        axes.plot(
            alphas, [point[name]["value"] for point in points], color=colour, marker=marker, label=label
        )
        low, high = zip(*(point[name]["ci95"] or [point[name]["value"]] * 2 for point in points), strict=True)
        axes.fill_between(alphas, low, high, color=colour, alpha=0.15, linewidth=0)
    accepted = [point["accepted"] for point in points]
    axes.plot(alphas, accepted, color=_GREEN, marker="s", label="accepted, of all steps")
    axes.set_title(_judged(report))
    axes.set_xlabel("alpha")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid()
    axes.legend(loc="best")


def _pareto(report: dict[str, Any], axes: "Axes") -> None:
    """Accuracy against speedup, a point for each alpha."""
    from matplotlib.ticker import PercentFormatter

    runs, choice = report["runs"], report["choice"]
    accuracy = runs["policies"][BASELINE]["accuracy"]
    axes.axhline(accuracy, color=GREY, linestyle="--", linewidth=1)
    allowed = accuracy - choice["tolerance"]
    axes.axhspan(allowed, accuracy, color=GREY, alpha=0.12, linewidth=0)
    axes.plot(1, accuracy, color="#000000", marker="s")
    axes.annotate("target alone", (1, accuracy), (8, 6), textcoords="offset points")
    for number, one in enumerate(report["by_alpha"]):
        speedup, lost = one["speedup"], one["accuracy_difference"]
        chosen = one["alpha"] == choice["alpha"]
        colour = _BLUE if chosen else _ORANGE
        x, y = speedup["value"], accuracy + lost["value"]
        if speedup["ci95"]:
            axes.plot(speedup["ci95"], [y, y], color=colour, linewidth=1)
        if lost["ci95"]:
            axes.plot([x, x], [accuracy + end for end in lost["ci95"]], color=colour, linewidth=1)
        axes.plot(x, y, color=colour, marker="o")
        text = f"{one['alpha']:g}" + (" (chosen)" if chosen else "")
        # Neighbours often stand close together.
        offset = (8, 8 + 14 * (number % 2)) if number % 4 < 2 else (8, -16 - 14 * (number % 2))
        axes.annotate(text, (x, y), offset, textcoords="offset points", color=colour)
    axes.set_title(f"{report['pair']}, fpsr by alpha, {runs['questions']} questions")
    axes.set_xlabel("times as fast as the target alone (95% interval)")
    axes.set_ylabel("right answers (95% interval of the difference)")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlim(left=0.9)
    axes.grid()


def _points(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Alphas that accept something, where something is right."""
    points = report["steps"]["by_alpha"]
    return [point for point in points if point["precision"] and point["recall"]]


def _judged(report: dict[str, Any]) -> str:
    steps = report["steps"]
    return f"{report['pair']}, {report['rule']}: {steps['right']} right steps, {steps['wrong']} wrong ones"
