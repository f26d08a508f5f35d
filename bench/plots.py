"""`python -m bench.plots REPORT.json FOLDER`: figures of a stored report of `dreamr bench`, as SVG files.

The same report and version of matplotlib give the same bytes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can tell apart; a marker each for print without colours.
_STYLES = {
    "target": ("#000000", "s"),
    "fpsr": ("#0072B2", "o"),
    "specreason": ("#E69F00", "^"),
    "lookahead": ("#009E73", "D"),
    "exact": ("#CC79A7", "v"),
}
# Of variants, by their place.
_OTHERS = (("#D55E00", "X"), ("#56B4E9", "P"), ("#7F7F7F", "*"), ("#B79F00", "<"), ("#6A3D9A", ">"))
GREY = "#767676"

Report = dict[str, Any]


def draw(report: Report, folder: Path) -> list[Path]:
    """Writes the figures that the report has figures for, and returns their paths.

    `latency.svg` always; `speedup.svg` where `target` and another policy were measured; `throughput.svg` with
    several concurrencies; `draft-workers.svg` with several numbers of draft workers.

    Raises:
        KeyError: the report lacks a figure; it is none of `dreamr bench`.
        OSError: the folder cannot be written.
    """
    figures: dict[str, tuple[bool, Callable[[Report, Axes], None]]] = {
        "latency": (True, _latency),
        "speedup": (bool(report["speedup"]), _speedup),
        "throughput": (len(report.get("levels", [])) > 1, _throughput),
        "draft-workers": (len(report.get("draft_workers", [])) > 1, _draft_workers),
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


@contextmanager
def axes_of(path: Path) -> Iterator["Axes"]:
    """Axes to draw on, written to the file behind the block."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(
        {
            "svg.hashsalt": "dreamr",
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.titlepad": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": "#e4e4e4",
            "lines.linewidth": 2,
            "lines.markersize": 7,
            "legend.edgecolor": "none",
        }
    ):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        yield figure.subplots()
        figure.savefig(path, metadata={"Date": None})


def _latency(report: Report, axes: "Axes") -> None:
    """What share of the questions was answered within a time."""
    from matplotlib.ticker import PercentFormatter

    for name, figures in report["policies"].items():
        samples = figures["latency_seconds"]["samples"]
        axes.ecdf(samples, color=_style(report, name)[0], label=f"{name}, median {median(samples):.3g} s")
    axes.set_title(_questions(report))
    axes.set_xlabel("seconds until the answer")
    axes.set_ylabel("questions answered")
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid()
    axes.legend(loc="lower right")


def _speedup(report: Report, axes: "Axes") -> None:
    """How many times as fast as the target alone."""
    names = list(report["speedup"])
    for row, name in enumerate(names):
        ratio, interval = report["speedup"][name]["ratio"], report["speedup"][name]["ci95"]
        colour, marker = _style(report, name)
        axes.plot(interval or [ratio, ratio], [row, row], color=colour)
        axes.plot(ratio, row, color=colour, marker=marker)
        axes.annotate(f"{ratio:.2f}", (ratio, row), (0, 9), textcoords="offset points", ha="center")
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("target", (1, 0), (4, 4), xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set_title(_questions(report))
    axes.set_xlabel("times as fast as the target alone (ratio of mean latencies, 95% interval)")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _throughput(report: Report, axes: "Axes") -> None:
    """Answers per second by load."""
    levels = report["levels"]
    at_once = [level["concurrency"] for level in levels]
    for name in report["policies"]:
        _line(
            report, axes, name, at_once, [level["policies"][name]["answers_per_second"] for level in levels]
        )
    axes.set_title(report["pair"])
    axes.set_xlabel("questions at the same time")
    axes.set_ylabel("answers per second")
    axes.set_xscale("log", base=2)
    _finish(axes, at_once)


def _draft_workers(report: Report, axes: "Axes") -> None:
    """Drafted tokens per second by number of draft workers, beside what linear scaling would give."""
    # At the highest concurrency measured, where the workers have most to do.
    entries = [entry.get("levels", [entry])[-1] for entry in report["draft_workers"]]
    workers = [entry["draft_workers"] for entry in report["draft_workers"]]
    for name in report["policies"]:
        drafted = [entry["policies"][name]["drafted_tokens_per_second"] for entry in entries]
        if not drafted[0]:
            continue
        linear = [drafted[0] * count / workers[0] for count in workers]
        axes.plot(workers, linear, color=GREY, linestyle="--", linewidth=1, zorder=3)
        axes.annotate(
            "linear", (workers[-1], linear[-1]), (-6, 0), textcoords="offset points", ha="right", color=GREY
        )
        _line(report, axes, name, workers, drafted)
    axes.set_title(f"{report['pair']}, {entries[0]['concurrency']} questions at the same time")
    axes.set_xlabel("draft workers")
    axes.set_ylabel("drafted tokens per second")
    axes.set_xlim(left=0)
    _finish(axes, workers)


def _line(report: Report, axes: "Axes", name: str, across: list[int], up: list[float]) -> None:
    colour, marker = _style(report, name)
    axes.plot(across, up, color=colour, marker=marker, label=name)


def _finish(axes: "Axes", ticks: list[int]) -> None:
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid()
    axes.legend(loc="upper left")


def _style(report: Report, name: str) -> tuple[str, str]:
    """Colour and marker: a policy's the same in every figure, a variant's by its place in the report."""
    variants = [other for other in report["policies"] if other not in _STYLES]
    return _STYLES.get(name) or _OTHERS[variants.index(name) % len(_OTHERS)]


def _questions(report: Report) -> str:
    level = report["concurrency"]
    at_once = "one at a time" if level == 1 else f"{level} at a time"
    return f"{report['pair']}, {report['questions']} questions, {at_once}"


def main() -> None:
    """Runs the command; exits with 2 where the report cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path, metavar="REPORT.json", help="written by `dreamr bench --json`")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the figures go")
    arguments = parser.parse_args()
    try:
        written = draw(json.loads(arguments.report.read_text("utf-8")), arguments.folder)
    except (OSError, json.JSONDecodeError) as error:
        parser.error(str(error))
    except (KeyError, TypeError) as error:
        parser.error(f"{arguments.report} is no report of `dreamr bench`: {error}")
    for path in written:
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
