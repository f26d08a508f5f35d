"""The live view of a session: who drafts, judges and writes, and what became of each candidate."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dreamr.events import Activity, Commit, Event, Finished

_STYLES = {
    "drafted": "cyan",
    "judging": "yellow",
    "accepted": "green",
    "rejected": "red",
    "cancelled": "dim strike",
}
_LANES = ("draft", "rival", "verdict", "answer")


@dataclass(slots=True)
class _Candidate:
    text: str
    state: str = "drafted"
    score: float | None = None


class LiveView:
    """Takes events, and shows how things stand."""

    def __init__(self) -> None:
        self._commits: list[Commit] = []
        self._window: dict[int, _Candidate] = {}
        self._busy: dict[str, set[int]] = {lane: set() for lane in _LANES}

    def take(self, event: Event) -> None:
        """Follows an event."""
        if isinstance(event, Commit):
            self._commits.append(event)
            self._window.pop(event.index, None)
            if event.author == "target":
                # What stood behind was built on another step.
                self._window.clear()
        elif isinstance(event, Finished):
            self._window.clear()
        elif isinstance(event, Activity):
            self._follow(event)

    def _follow(self, event: Activity) -> None:
        if event.part not in self._busy:
            return
        busy = self._busy[event.part]
        if event.phase in ("done", "cancelled", "failed"):
            busy.discard(event.call)
        else:
            busy.add(event.call)
        if event.part == "draft" and event.phase == "step":
            self._window[event.index] = _Candidate(event.text)
        candidate = self._window.get(event.index)
        if event.part == "verdict" and candidate:
            if event.phase == "started":
                candidate.state = "judging"
            elif event.phase == "cancelled":
                candidate.state = "cancelled"
            elif event.verdict:
                candidate.state = "accepted" if event.verdict.accept else "rejected"
                candidate.score = event.verdict.score
                if not event.verdict.accept:
                    for index, behind in self._window.items():
                        if index > event.index:
                            behind.state = "cancelled"

    def __rich__(self) -> RenderableType:
        lanes = Text()
        for lane in _LANES:
            working = len(self._busy[lane])
            lanes.append(f" {lane} {'●' * working or '·'} ", "bold" if working else "dim")
        table = Table(box=None, show_header=False, padding=(0, 1))
        for commit in self._commits:
            table.add_row(*commit_row(commit))
        for index, candidate in sorted(self._window.items()):
            score = "" if candidate.score is None else f"{candidate.score:.2f}"
            style = _STYLES[candidate.state]
            table.add_row(
                str(index), Text(candidate.state, style), Text(score, style), Text(candidate.text, style)
            )
        return Group(lanes, table)


def commit_row(commit: Commit) -> tuple[str, Text, Text, Text]:
    """A committed step as a table's row: index, author, score, text."""
    style = "green" if commit.author == "draft" else "blue"
    score = "" if commit.score is None else f"{commit.score:.2f}"
    return str(commit.index), Text(commit.author, style), Text(score), Text(commit.text)
