"""Sessions in this process's memory: for one gateway and for tests. They end with the process."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from services.gateway.store import Appended, Status, StoredSession


class MemoryStore:
    """A `Store`.

    Args:
        ttl_seconds: how long an ended session is kept.
        max_bytes: what ended sessions may take in all; beyond it the one that ended first is forgotten.
    """

    durable = False

    def __init__(self, ttl_seconds: float, max_bytes: int = 256 << 20) -> None:
        self._ttl_seconds = ttl_seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._sessions: dict[str, StoredSession] = {}
        # Of ended sessions, in the order in which they ended: their timers and sizes in bytes.
        self._ended: dict[str, tuple[asyncio.TimerHandle, int]] = {}

    async def create(self, session_id: str, request: bytes, images: Sequence[bytes]) -> int:
        """See Store."""
        self._sessions[session_id] = StoredSession(request, Status.RUNNING, 1, images=tuple(images))
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
        if session.status is not Status.RUNNING:
            return Appended.ENDED
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
        self._unlist(session_id)
        session = self._sessions[session_id] = replace(session, status=status, outcome=outcome)
        timer = asyncio.get_running_loop().call_later(self._ttl_seconds, self._forget, session_id)
        self._ended[session_id] = timer, _size(session)
        self._bytes += _size(session)
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._ended)))
        return True

    async def load(self, session_id: str) -> StoredSession | None:
        """See Store."""
        return self._sessions.get(session_id)

    async def close(self) -> None:
        """See Store."""
        for session_id in list(self._ended):
            self._forget(session_id)
        self._sessions.clear()

    def _forget(self, session_id: str) -> None:
        self._unlist(session_id)
        self._sessions.pop(session_id, None)

    def _unlist(self, session_id: str) -> None:
        if found := self._ended.pop(session_id, None):
            timer, size = found
            timer.cancel()
            self._bytes -= size


def _size(session: StoredSession) -> int:
    parts = (session.request, session.outcome, *session.steps, *set(session.images))
    return sum(map(len, parts))
