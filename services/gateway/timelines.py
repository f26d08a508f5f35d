"""What this gateway's last sessions did and when: in memory, bounded in number, bytes and time.

Kept are events, with the texts of steps and answers, and the beginning of the question; never an image.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from dreamr.v1 import gateway_pb2
from services.common.errors import ServiceError, SessionCancelledError
from services.gateway.callers import Caller

MAX_QUESTION = 200
"""Characters of a question that are kept, to tell sessions apart."""
MAX_SHARE = 8
"""One session has this part of all bytes at most; what comes behind is not kept, but for its end."""
# What Python takes beside the bytes themselves, of a timeline and of an event.
_TIMELINE_BYTES, _EVENT_BYTES = 1024, 64


@dataclass(slots=True, eq=False)
class Timeline:
    """One session, as far as this gateway has worked on it.

    Attributes:
        owner: name of the caller; empty where there are no keys.
        began: seconds since 1970.
        status: running, finished, failed, or cancelled: also where its client left.
        why: it failed.
        events: as `ReasonResponse` on the wire.
        steps: committed ones.
        cut: events are missing behind some place, for their size.
        ends: drops it, once the session is over.
    """

    session_id: str
    owner: str
    question: str
    began: float = field(default_factory=time.time)
    status: str = "running"
    why: str = ""
    started: gateway_pb2.Started = field(default_factory=gateway_pb2.Started)
    finished: gateway_pb2.Finished | None = None
    steps: int = 0
    events: list[bytes] = field(default_factory=list)
    size: int = _TIMELINE_BYTES
    cut: bool = False
    ends: asyncio.TimerHandle | None = None


class Timelines:
    """The last sessions' timelines, the oldest first to go.

    Args:
        most: timelines at most, of all callers together; 0 keeps none.
        most_bytes: of all of them.
        seconds: how long one is kept behind its end.
        owner_of: the caller of a session, by its id.
    """

    def __init__(self, most: int, most_bytes: int, seconds: float, owner_of: Callable[[str], Caller]) -> None:
        self.most = most
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._owner_of = owner_of
        self._kept: dict[str, Timeline] = {}
        self._size = 0

    @contextmanager
    def session(
        self, session_id: str, question: str
    ) -> Iterator[Callable[[gateway_pb2.ReasonResponse], None]]:
        """Keeps what a session is told to have done within the block, in place of what it did earlier."""
        timeline = self._begin(session_id, question)
        status, why = "failed", "internal error"
        try:
            yield partial(self._take, timeline)
            status, why = "finished", ""
        except (SessionCancelledError, asyncio.CancelledError):
            status, why = "cancelled", ""
            raise
        except ServiceError as error:
            status, why = "failed", str(error)
            raise
        finally:
            timeline.status, timeline.why = status, why
            if self._keeps(timeline):
                timeline.ends = asyncio.get_running_loop().call_later(self._seconds, self._drop, timeline)

    def of(self, caller: Caller) -> list[Timeline]:
        """A caller's, the newest first."""
        return [timeline for timeline in reversed(self._kept.values()) if caller.owns(timeline.session_id)]

    def find(self, caller: Caller, session_id: str) -> Timeline | None:
        """One of a caller's."""
        return self._kept.get(session_id) if caller.owns(session_id) else None

    def _begin(self, session_id: str, question: str) -> Timeline:
        self._drop(self._kept.get(session_id))
        timeline = Timeline(session_id, self._owner_of(session_id).name, question[:MAX_QUESTION])
        self._kept[session_id] = timeline
        self._size += timeline.size
        self._shrink()
        return timeline

    def _take(self, timeline: Timeline, response: gateway_pb2.ReasonResponse) -> None:
        if not self._keeps(timeline):
            return
        match response.WhichOneof("event"):
            case "started":
                timeline.started = response.started
            case "commit":
                timeline.steps += 1
            case "finished":
                timeline.finished = response.finished
        event = response.SerializeToString()
        size = len(event) + _EVENT_BYTES
        if response.HasField("finished"):
            size += len(event)  # kept as a message, too
        elif timeline.cut or timeline.size + size > self._most_bytes // MAX_SHARE:
            # Nothing behind the first hole: ends without their beginnings would be told.
            timeline.cut = True
            return
        timeline.events.append(event)
        timeline.size += size
        self._size += size
        self._shrink()

    def _keeps(self, timeline: Timeline) -> bool:
        return self._kept.get(timeline.session_id) is timeline

    def _shrink(self) -> None:
        while (crowded := len(self._kept) > self.most) or self._size > self._most_bytes:
            # Who has most of what is short makes room: nobody can push the others' out.
            held: Counter[str] = Counter()
            for timeline in self._kept.values():
                held[timeline.owner] += 1 if crowded else timeline.size
            fullest = max(held, key=held.__getitem__)
            self._drop(next(timeline for timeline in self._kept.values() if timeline.owner == fullest))

    def _drop(self, timeline: Timeline | None) -> None:
        if timeline and self._keeps(timeline):
            del self._kept[timeline.session_id]
            self._size -= timeline.size
            # A session that still runs holds it, and so would the timer until it is due.
            timeline.events = []
            if timeline.ends:
                timeline.ends.cancel()
