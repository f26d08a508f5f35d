"""A session as a trace: the JSON of Chrome's trace event format, which Perfetto opens."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from dreamr.events import Commit, Event, Finished
from dreamr.timeline import LANES, Span, spans

_MICROSECONDS = 1e6
_ROWS = 1000
"""Rows of a lane at most; their numbers leave room for these."""


def trace(events: Iterable[Event], name: str) -> dict[str, Any]:
    """A process whose threads are lanes; work of a lane that overlaps has a thread of its own."""
    happened = list(events)
    rows: dict[int, str] = {}
    found: list[dict[str, Any]] = []
    for span, row in _in_rows(spans(happened)):
        thread = LANES.index(span.lane) * _ROWS + row
        rows[thread] = f"{span.lane} {row + 1}" if row else span.lane
        details: dict[str, Any] = {"position": span.index, "outcome": span.outcome}
        if span.text:
            details["text"] = span.text
        if span.verdict:
            details["verdict"] = asdict(span.verdict)
        found.append(
            {
                "name": f"{span.lane} {span.index}",
                "cat": f"{span.lane},{span.outcome}",
                "ph": "X",
                "ts": (start := round(span.start * _MICROSECONDS)),
                "dur": round(span.end * _MICROSECONDS) - start,
                "tid": thread,
                "args": details,
            }
        )
    for event in happened:
        if isinstance(event, Commit):
            found.append(
                _instant(
                    f"commit {event.index} by {event.author}",
                    event.committed,
                    {"author": event.author, "text": event.text, "tokens": event.tokens},
                )
            )
        elif isinstance(event, Finished):
            found.append(_instant("finished", event.seconds, {"answer": event.answer}))
    named = [_metadata("process_name", 0, name=name)]
    for thread, lane in sorted(rows.items()):
        named.append(_metadata("thread_name", thread, name=lane))
        named.append(_metadata("thread_sort_index", thread, sort_index=thread))
    return {"displayTimeUnit": "ms", "traceEvents": [{"pid": 1, **event} for event in named + found]}


def _in_rows(found: Iterable[Span]) -> list[tuple[Span, int]]:
    """Each with the first row of its lane that is free when it starts."""
    ends: dict[str, list[float]] = {}
    placed = []
    for span in sorted(found, key=lambda span: span.start):
        rows = ends.setdefault(span.lane, [])
        row = next((row for row, end in enumerate(rows) if end <= span.start), len(rows))
        rows[row : row + 1] = [span.end]
        placed.append((span, row))
    return placed


def _instant(name: str, at: float, details: dict[str, Any]) -> dict[str, Any]:
    """What has no length; it concerns the whole process."""
    return {"name": name, "ph": "i", "s": "p", "ts": round(at * _MICROSECONDS), "tid": 0, "args": details}


def _metadata(kind: str, thread: int, **details: Any) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "ts": 0, "tid": thread, "args": details}
