"""Sessions that callers did not see to their end, and that the store keeps for whoever resumes them."""

import time
import uuid
from collections.abc import Callable

import structlog

from services.gateway.callers import Caller
from services.gateway.store import Status, Store, StoreError

log = structlog.get_logger()

_OVERHEAD = 4096
"""Bytes that a store needs for any session, however small. So a limit bounds their number as well."""


class LeftBehind:
    """How much of the store each caller with a limit takes by what it has left unfinished at this gateway.

    Beyond the limit the sessions that were left first are cancelled, though never the last one: who lost its
    connection finds what it asked for last.

    Args:
        ttl_seconds: after which the store forgets a session itself.
        lease_seconds: for which one is held while it is cancelled.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        store: Store,
        ttl_seconds: float,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl_seconds = ttl_seconds
        self._lease_seconds = lease_seconds
        self._clock = clock
        # By caller: bytes of each session and when it was left, in that order.
        self._left: dict[str, dict[str, tuple[int, float]]] = {}

    def add(self, caller: Caller, session_id: str, size: int) -> None:
        """A session of so many bytes that the caller has left, or that failed and may be resumed."""
        if caller.limits.max_left_bytes is not None:
            left = self._left.setdefault(caller.name, {})
            left.pop(session_id, None)
            left[session_id] = size + _OVERHEAD, self._clock()

    def remove(self, caller: Caller, session_id: str) -> None:
        """It was taken up again, or has ended."""
        if left := self._left.get(caller.name):
            left.pop(session_id, None)

    async def trim(self, caller: Caller) -> None:
        """Brings a caller down to its limit; with the store away it is done another time."""
        limit = caller.limits.max_left_bytes
        left = self._left.get(caller.name, {})
        while left:
            first = next(iter(left))
            lapsed = left[first][1] + self._ttl_seconds <= self._clock()
            over = limit is not None and len(left) > 1 and sum(size for size, _ in left.values()) > limit
            if not (lapsed or over):
                return
            size, since = left.pop(first)
            if lapsed:
                continue
            try:
                await self._cancel(first)
            except StoreError as error:
                # As the first again.
                rest = dict(left)
                left.clear()
                left.update({first: (size, since)} | rest)
                log.info("sessions left behind stay", reason=str(error))
                return

    async def _cancel(self, session_id: str) -> None:
        """Only where nobody works on it: it may have been resumed at another gateway."""
        fence = await self._store.take_over(session_id, self._lease_seconds, uuid.uuid4().hex)
        if fence and await self._store.end(session_id, fence, Status.CANCELLED):
            log.info("session left behind is cancelled: its caller has left too much", session_id=session_id)
