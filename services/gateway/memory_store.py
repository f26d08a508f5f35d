"""Sessions in this process's memory: for one gateway and for tests. They end with the process."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from services.gateway.store import LOOK_SECONDS, Appended, Hold, Status, StoredSession, content_names


class MemoryStore:
    """A `Store`.

    Args:
        ttl_seconds: how long a session is kept on which nobody works.
        max_bytes: what such sessions may take in all; beyond it the one left first is forgotten.
    """

    durable = False

    def __init__(self, ttl_seconds: float, max_bytes: int = 256 << 20) -> None:
        self._ttl_seconds = ttl_seconds
        self._max_bytes = max_bytes
        self._bytes = 0
        self._sessions: dict[str, StoredSession] = {}
        self._owners: dict[str, str] = {}
        self._leases: dict[str, float] = {}
        # Of sessions that ended or were let go of, in that order: their timers and sizes in bytes.
        self._left: dict[str, tuple[asyncio.TimerHandle, int]] = {}
        # When to look at those in the background.
        self._due: dict[str, float] = {}

    async def create(
        self,
        session_id: str,
        request: bytes,
        images: Sequence[bytes],
        lease_seconds: float,
        owner: str,
        origin: str = "",
    ) -> int:
        """See Store."""
        if session := self._sessions.get(session_id):
            again = session.status is Status.RUNNING and self._owners[session_id] == owner
            return session.fence if again else 0
        self._sessions[session_id] = StoredSession(
            request,
            Status.RUNNING,
            1,
            image_names=tuple(content_names(images)),
            images=tuple(images),
            origin=origin,
        )
        self._owners[session_id] = owner
        self._lease(session_id, lease_seconds)
        return 1

    async def renew(self, session_id: str, fence: int, lease_seconds: float) -> Hold:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None:
            return Hold.NO_SESSION
        if session.status is Status.CANCELLED:
            return Hold.CANCELLED
        if session.fence != fence or session.status is not Status.RUNNING:
            return Hold.TAKEN
        self._lease(session_id, lease_seconds)
        if not lease_seconds:
            self._list(session_id)
        return Hold.OURS

    async def take_over(self, session_id: str, lease_seconds: float, owner: str) -> int:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None or session.status is not Status.RUNNING:
            return 0
        if self._held(session_id):
            return session.fence if self._owners[session_id] == owner else 0
        self._sessions[session_id] = replace(
            session, fence=session.fence + 1, takeovers=session.takeovers + 1
        )
        self._owners[session_id] = owner
        self._lease(session_id, lease_seconds)
        return session.fence + 1

    async def cancel(self, session_id: str) -> bool:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None or session.status is not Status.RUNNING:
            return False
        return await self.end(session_id, session.fence, Status.CANCELLED)

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
        self._sessions[session_id] = replace(session, steps=(*session.steps, step), takeovers=0)
        return Appended.DONE

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None or session.fence != fence or session.status is not Status.RUNNING:
            return False
        self._sessions[session_id] = replace(session, status=status, outcome=outcome, images=())
        self._list(session_id)
        return True

    async def load(
        self, session_id: str, first: int = 0, *, with_images: bool = True
    ) -> StoredSession | None:
        """See Store."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        images = session.images if with_images else ()
        held = self._held(session_id)
        return replace(session, held=held, first=first, steps=session.steps[first:], images=images)

    async def register(self, session_id: str, seconds: float) -> None:
        """See Store."""
        self._due[session_id] = time.monotonic() + seconds

    async def orphans(self, limit: int) -> list[str]:
        """See Store."""
        now, found = time.monotonic(), list[str]()
        for session_id in [name for name, due in self._due.items() if due <= now]:
            session = self._sessions.get(session_id)
            if session is None or session.status is not Status.RUNNING:
                del self._due[session_id]
            elif not self._held(session_id) and len(found) < limit:
                self._due[session_id] = now + LOOK_SECONDS
                found.append(session_id)
        return found

    async def close(self) -> None:
        """See Store."""
        for session_id in list(self._left):
            self._forget(session_id)
        self._sessions.clear()

    def _lease(self, session_id: str, seconds: float) -> None:
        self._unlist(session_id)
        self._leases[session_id] = time.monotonic() + seconds

    def _held(self, session_id: str) -> bool:
        return self._leases.get(session_id, 0.0) > time.monotonic()

    def _forget(self, session_id: str) -> None:
        self._unlist(session_id)
        self._leases.pop(session_id, None)
        self._owners.pop(session_id, None)
        self._sessions.pop(session_id, None)

    def _list(self, session_id: str) -> None:
        """Nobody works on it: it is kept for a while."""
        self._unlist(session_id)
        timer = asyncio.get_running_loop().call_later(self._ttl_seconds, self._forget, session_id)
        size = _size(self._sessions[session_id])
        self._left[session_id] = timer, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._left)))

    def _unlist(self, session_id: str) -> None:
        if found := self._left.pop(session_id, None):
            timer, size = found
            timer.cancel()
            self._bytes -= size


def _size(session: StoredSession) -> int:
    parts = (session.request, session.outcome, *session.steps, *set(session.images))
    return sum(map(len, parts))
