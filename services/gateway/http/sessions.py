"""`/v1/dreamr/sessions`: the last sessions of who asks, with their timelines."""

import asyncio
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from dreamr.events import from_proto
from dreamr.trace import trace
from dreamr.v1 import gateway_pb2
from services.common.errors import NotFoundError
from services.gateway.callers import Callers
from services.gateway.http.exchange import Exchange, as_json
from services.gateway.http.proto_json import told
from services.gateway.timelines import Timeline, Timelines

_Events = Iterable[gateway_pb2.ReasonResponse]


class Sessions:
    """Tells what this gateway keeps of its last sessions."""

    def __init__(self, timelines: Timelines, callers: Callers) -> None:
        self._timelines = timelines
        self._callers = callers
        # Thousands of events take seconds; one thread is left to everybody else, and one large reply made.
        self._making = asyncio.Lock()

    async def listed(self, exchange: Exchange) -> None:
        """The caller's, the newest first; see Behaviour."""
        caller = self._callers.of(exchange.metadata)
        found = [_summary(timeline) for timeline in self._timelines.of(caller)]
        await _reply(exchange, {"most": self._timelines.most, "sessions": found})

    async def one(self, exchange: Exchange) -> None:
        """A session with its events; see Behaviour."""
        timeline = self._find(exchange)
        summary = _summary(timeline)
        await self._tell(
            exchange, timeline, lambda events: summary | {"events": [told(event) for event in events]}
        )

    async def trace(self, exchange: Exchange) -> None:
        """A session for Perfetto; see Behaviour."""
        timeline = self._find(exchange)
        name = f"dreamr {timeline.started.policy} {timeline.session_id}"
        exchange.head["content-disposition"] = f'attachment; filename="dreamr-{timeline.session_id}.json"'
        await self._tell(
            exchange, timeline, lambda events: trace(filter(None, map(from_proto, events)), name)
        )

    async def _tell(self, exchange: Exchange, timeline: Timeline, make: Callable[[_Events], Any]) -> None:
        """Replies with what a thread makes of a session's events."""
        kept = tuple(timeline.events)

        def made() -> bytes:
            return as_json(make(gateway_pb2.ReasonResponse.FromString(event) for event in kept))

        async with self._making:
            body = await asyncio.to_thread(made)
        await _reply(exchange, body)

    def _find(self, exchange: Exchange) -> Timeline:
        """One of the caller's.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
        """
        session_id = exchange.path_params["id"]
        caller = self._callers.of(exchange.metadata)
        timeline = self._timelines.find(caller, session_id)
        if timeline is None:
            raise NotFoundError(f"there is no timeline of a session {session_id[:64]!r}, or not any more")
        return timeline


async def _reply(exchange: Exchange, body: Any) -> None:
    """Sends what is a caller's own: not to be kept by anybody on the way."""
    exchange.head["cache-control"] = "no-store"
    await exchange.reply(HTTPStatus.OK, body)


def _summary(timeline: Timeline) -> dict[str, Any]:
    started, finished = timeline.started, timeline.finished
    return {
        "id": timeline.session_id,
        "question": timeline.question,
        "began": timeline.began,
        "status": timeline.status,
        "why": timeline.why,
        "policy": started.policy,
        "window": started.window,
        "alpha": started.alpha,
        "steps": timeline.steps,
        "answer": finished.answer if finished else None,
        "seconds": finished.seconds if finished else None,
        "cut": timeline.cut,
    }
