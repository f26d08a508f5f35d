"""`python -m training.sapo.plots RUN`: learning curves of a run, as SVG files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.plots import axes_of
from training.sapo.records import Records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, as in `bench.plots`.
_COLOURS = {"outcome": "#0072B2", "acceptance": "#009E73", "length": "#E69F00"}
_SMOOTHED = 25
"""Updates in a moving mean: one update's 64 rollouts tell little."""


def draw(run: Path) -> list[Path]:
    """Writes `rewards.svg` and `evaluations.svg` into the run's folder where it has the figures for them."""
    records = Records(run)
    written = []
    if rows := records.metrics():
        with axes_of(run / "rewards.svg") as axes:
            for name, colour in _COLOURS.items():
                points = [(row["step"], row[name]) for row in rows if name in row]
                if points:
                    smooth = _mean([value for _, value in points])
                    axes.plot([step for step, _ in points], smooth, color=colour, label=name)
            _label(axes, "Rewards of the rollouts, moving mean", "updates", "reward")
        written.append(run / "rewards.svg")
    if found := records.evaluations():
        with axes_of(run / "evaluations.svg") as axes:
            steps = [one.step for one in found]
            low = [one.speedup.value - (one.speedup.ci95 or (one.speedup.value,) * 2)[0] for one in found]
            high = [(one.speedup.ci95 or (one.speedup.value,) * 2)[1] - one.speedup.value for one in found]
            speedup = [one.speedup.value for one in found]
            axes.errorbar(steps, speedup, [low, high], color="#0072B2", marker="o", label="speedup")
            for name, values, colour, marker in (
                ("accepted", [one.acceptance for one in found], "#009E73", "^"),
                ("right", [one.accuracy["fpsr"] for one in found], "#CC79A7", "v"),
                ("right, target alone", [one.accuracy["target"] for one in found], "#000000", "s"),
            ):
                axes.plot(steps, values, color=colour, marker=marker, label=name)
            _label(axes, "Checkpoints through the whole cluster", "updates", "share, or times as fast")
        written.append(run / "evaluations.svg")
    return written


def _mean(values: Sequence[float]) -> list[float]:
    """Of the last `_SMOOTHED` values at each place."""
    return [
        sum(part) / len(part)
        for end in range(1, len(values) + 1)
        if (part := values[max(0, end - _SMOOTHED) : end])
    ]


def _label(axes: "Axes", title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y")
    axes.legend()


if __name__ == "__main__":
    for drawn in draw(Path(sys.argv[1])):
        sys.stdout.write(f"{drawn}\n")
