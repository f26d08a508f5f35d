"""`/v1/dreamr/sessions`: the last sessions of who asks, with their timelines."""

import asyncio
from http import HTTPStatus
from typing import Any

from dreamr.events import from_proto
from dreamr.trace import trace
from services.common.errors import NotFoundError
from services.gateway.callers import Callers
from services.gateway.http.exchange import Exchange
from services.gateway.http.proto_json import told
from services.gateway.timelines import Timeline, Timelines


class Sessions:
    """Tells what this gateway keeps of its last sessions."""

    def __init__(self, timelines: Timelines, callers: Callers) -> None:
        self._timelines = timelines
        self._callers = callers

    async def listed(self, exchange: Exchange) -> None:
        """The caller's, the newest first; see Behaviour."""
        caller = self._callers.of(exchange.metadata)
        found = [_summary(timeline) for timeline in self._timelines.of(caller)]
        exchange.head["cache-control"] = "no-store"
        await exchange.reply(HTTPStatus.OK, {"most": self._timelines.most, "sessions": found})

    async def one(self, exchange: Exchange) -> None:
        """A session with its events; see Behaviour."""
        timeline = self._find(exchange)
        summary, events = _summary(timeline), timeline.responses()
        # A thousand events take a tenth of a second.
        body = await asyncio.to_thread(lambda: summary | {"events": [told(event) for event in events]})
        exchange.head["cache-control"] = "no-store"
        await exchange.reply(HTTPStatus.OK, body)

    async def trace(self, exchange: Exchange) -> None:
        """A session for Perfetto; see Behaviour."""
        timeline = self._find(exchange)
        name, responses = f"dreamr {timeline.started.policy} {timeline.session_id}", timeline.responses()
        body = await asyncio.to_thread(lambda: trace(filter(None, map(from_proto, responses)), name))
        exchange.head |= {
            "cache-control": "no-store",
            "content-disposition": f'attachment; filename="dreamr-{timeline.session_id}.json"',
        }
        await exchange.reply(HTTPStatus.OK, body)

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
