"""Sessions in this process's memory: for one gateway and for tests. They end with the process."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from services.gateway.store import Appended, Status, StoredSession


class MemoryStore:
    """A `Store`; ended sessions are forgotten after `ttl_seconds`."""

    durable = False

    def __init__(self, ttl_seconds: float) -> None:
        self._ttl_seconds = ttl_seconds
        self._sessions: dict[str, StoredSession] = {}
        self._expiry: dict[str, asyncio.TimerHandle] = {}

    async def create(self, session_id: str, request: bytes, images: Mapping[str, bytes]) -> int:
        """See Store."""
        self._sessions[session_id] = StoredSession(request, Status.RUNNING, 1, images=dict(images))
        return 1

    async def take_over(self, session_id: str) -> int:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None:
            return 0
        self._sessions[session_id] = replace(session, fence=session.fence + 1)
        return session.fence + 1

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Appended:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None:
            return Appended.NO_SESSION
        if session.fence != fence:
            return Appended.STALE_FENCE
        if index < len(session.steps) and session.steps[index] == step:
            return Appended.REPEATED
        if index != len(session.steps):
            return Appended.WRONG_INDEX
        self._sessions[session_id] = replace(session, steps=(*session.steps, step))
        return Appended.DONE

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None or session.fence != fence:
            return False
        self._sessions[session_id] = replace(session, status=status, outcome=outcome)
        loop = asyncio.get_running_loop()
        self._expiry[session_id] = loop.call_later(self._ttl_seconds, self._forget, session_id)
        return True

    async def load(self, session_id: str) -> StoredSession | None:
        """See Store."""
        return self._sessions.get(session_id)

    async def close(self) -> None:
        """See Store."""
        for timer in self._expiry.values():
            timer.cancel()
        self._expiry.clear()
        self._sessions.clear()

    def _forget(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)
        self._expiry.pop(session_id, None)
