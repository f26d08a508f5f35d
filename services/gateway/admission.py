"""A bounded number of sessions at once, and a bounded number that wait for a place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import LateError, OverloadedError


class Admission:
    """First come, first served."""

    def __init__(self, max_sessions: int, max_waiting: int) -> None:
        self._places = asyncio.Semaphore(max_sessions)
        self._max_sessions = max_sessions
        self._max_waiting = max_waiting
        self._waiting = 0

    @asynccontextmanager
    async def place(self, seconds: float) -> AsyncIterator[None]:
        """Holds a place for the block.

        Raises:
            OverloadedError: too many wait already.
            LateError: no place came free within `seconds`.
        """
        if self._places.locked() and self._waiting >= self._max_waiting:
            raise OverloadedError(
                f"sessions: the limit is {self._max_sessions} that run and {self._max_waiting} that wait"
            )
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError as error:
            raise LateError("sessions: no place came free within the deadline") from error
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    @asynccontextmanager
    async def try_place(self) -> AsyncIterator[bool]:
        """Holds a place for the block if one is free that nobody waits for; tells whether."""
        free = not self._waiting and not self._places.locked()
        if free:
            await self._places.acquire()
        try:
            yield free
        finally:
            if free:
                self._places.release()
