"""A picture of one session: who worked on what and when, from its activity."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dreamr.events import Activity, Commit, Event, Verdict

LANES = ("draft", "verdict", "rival", "answer")
_COLOURS = {
    "done": "#3b7dd8",
    "accepted": "#2e9e5b",
    "rejected": "#d64545",
    "cancelled": "#b8bcc4",
    "failed": "#8a4fbf",
}


@dataclass(slots=True)
class Span:
    """A piece of work. Times are seconds since the session started.

    Attributes:
        outcome: done, accepted, rejected, cancelled or failed.
        text: what was written, or why it failed.
    """

    lane: str
    index: int
    start: float
    end: float
    outcome: str
    text: str = ""
    verdict: Verdict | None = None


def spans(events: Iterable[Event]) -> list[Span]:
    """The pieces of work of a session; a drafting call is cut into its steps."""
    found: list[Span] = []
    running: dict[int, Activity] = {}
    for event in events:
        if not isinstance(event, Activity):
            continue
        started = running.get(event.call)
        if event.phase == "started" or started is None:
            running[event.call] = event
            continue
        outcome = {"step": "done"}.get(event.phase, event.phase)
        if event.verdict:
            outcome = "accepted" if event.verdict.accept else "rejected"
        # What follows a call's last step is its end, not work.
        if event.phase != "done" or event.part in ("verdict", "answer"):
            # A call that is cancelled names its first position, not the one that it was at.
            index = started.index + 1 if started.phase == "step" and event.phase != "step" else event.index
            found.append(Span(event.part, index, started.at, event.at, outcome, event.text, event.verdict))
        running[event.call] = event
    return found


def draw(events: Iterable[Event], path: Path, title: str) -> None:
    """Writes the picture; the format goes by the file's ending (svg, png)."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    happened = list(events)
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    for span in spans(happened):
        row = LANES.index(span.lane)
        width = max(span.end - span.start, 0.0005)
        # Verdicts of a window overlap: each takes a third of the lane, by its position.
        height, offset = (0.26, (span.index % 3 - 1) * 0.28) if span.lane == "verdict" else (0.8, 0.0)
        axes.barh(
            row + offset,
            width * 1000,
            left=span.start * 1000,
            height=height,
            color=_COLOURS.get(span.outcome, "#3b7dd8"),
            edgecolor="white",
            linewidth=0.6,
        )
        if span.lane in ("draft", "rival"):
            middle = (span.start + width / 2) * 1000
            axes.text(middle, row, str(span.index), ha="center", va="center", fontsize=7, color="white")
    for event in happened:
        if isinstance(event, Commit):
            colour = _COLOURS["accepted"] if event.author == "draft" else _COLOURS["done"]
            axes.axvline(event.committed * 1000, color=colour, linewidth=0.7, linestyle=":")
    axes.set_yticks(range(len(LANES)), LANES)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds; numbers are positions, dotted lines are commits")
    axes.set_title(title, fontsize=10)
    axes.legend(
        handles=[Patch(color=colour, label=name) for name, colour in _COLOURS.items() if name != "failed"],
        ncols=4,
        fontsize=8,
        loc="upper right",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
