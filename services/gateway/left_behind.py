"""Sessions that callers did not see to their end, and that the store keeps for whoever resumes them."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice

import structlog

from services.gateway.callers import Caller
from services.gateway.sessions import Session
from services.gateway.store import Status, Store, StoreError

log = structlog.get_logger()

_OVERHEAD = 4096
"""Bytes that a store needs for any session, however small. So a limit bounds their number as well."""

_AT_ONCE = 16
"""Sessions at most that a request waits for: the next one goes on."""


@dataclass(frozen=True, slots=True)
class _Entry:
    size: int
    since: float


@dataclass(slots=True)
class _Left:
    """What one caller has left, in that order."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    bytes: int = 0

    def add(self, session_id: str, entry: _Entry) -> None:
        self.remove(session_id)
        self.entries[session_id] = entry
        self.bytes += entry.size

    def remove(self, session_id: str) -> None:
        if entry := self.entries.pop(session_id, None):
            self.bytes -= entry.size


class LeftBehind:
    """How much of the store each caller with a limit takes by what it has left unfinished at this gateway.

    Beyond the limit the sessions that were left first are cancelled, though never the last one: who lost its
    connection finds what it asked for last. What other gateways do with a session is not heard of: it counts
    until its time is over here, or until it would be cancelled, which one that is worked on or over is not.

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
        # One for all, so that what was not heard of may be done again.
        self._owner = uuid.uuid4().hex
        self._callers: dict[str, _Left] = {}
        self._spared = Counter[str]()

    def add(self, caller: Caller, session: Session) -> None:
        """One that the caller has left, or that failed and may be resumed."""
        if caller.limits.max_left_bytes is not None:
            entry = _Entry(session.size + _OVERHEAD, self._clock())
            self._callers.setdefault(caller.name, _Left()).add(session.id, entry)

    def remove(self, caller: Caller, session_id: str) -> None:
        """It was taken up again, or has ended."""
        if left := self._callers.get(caller.name):
            left.remove(session_id)

    @contextmanager
    def spared(self, session_id: str) -> Iterator[None]:
        """Within the block somebody asks for the session: it is not cancelled."""
        self._spared[session_id] += 1
        try:
            yield
        finally:
            self._spared[session_id] -= 1
            if not self._spared[session_id]:
                del self._spared[session_id]

    async def trim(self, caller: Caller) -> None:
        """Brings a caller down to its limit, or nearer to it; with the store away it is done another time."""
        left, limit = self._callers.get(caller.name), caller.limits.max_left_bytes
        if left is None:
            return
        while left.entries:
            first, entry = next(iter(left.entries.items()))
            if entry.since + self._ttl_seconds > self._clock():
                break
            left.remove(first)
        if limit is None or left.bytes <= limit:
            return
        last = next(reversed(left.entries))
        others = (one for one in left.entries.items() if one[0] != last and not self._spared[one[0]])
        for session_id, entry in list(islice(others, _AT_ONCE)):
            if left.bytes <= limit:
                return
            try:
                await self._cancel(session_id)
            except StoreError as error:
                log.info("sessions left behind stay", reason=str(error))
                return
            # Meanwhile it may have been left once more.
            if left.entries.get(session_id) is entry:
                left.remove(session_id)

    async def _cancel(self, session_id: str) -> None:
        """Only where nobody works on it: it may have been resumed at another gateway."""
        fence = await self._store.take_over(session_id, self._lease_seconds, self._owner)
        if fence and await self._store.end(session_id, fence, Status.CANCELLED):
            log.info("session left behind is cancelled: its caller has left too much", session_id=session_id)
