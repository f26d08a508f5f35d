"""Takes up sessions in the background that nobody works on any more, where places are free."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from services.common.errors import ServiceError
from services.gateway.admission import Admission
from services.gateway.callers import Caller
from services.gateway.store import Store, StoreError

log = structlog.get_logger()

# Orphans that are asked for at a time, and that are remembered while no place is free.
_AT_ONCE, _REMEMBERED = 16, 256


class Adoption:
    """Looks for orphans at its start, then again and again.

    Args:
        owner: whose a session is, by its id: it takes one of that caller's places.
        adopt: takes a session over, if it still is an orphan, and works on it.
        seconds: between two looks at the store, on the average; gateways keep out of step.
    """

    def __init__(
        self,
        store: Store,
        admission: Admission,
        owner: Callable[[str], Caller],
        adopt: Callable[[str], Awaitable[None]],
        seconds: float,
    ) -> None:
        self._store = store
        self._admission = admission
        self._owner = owner
        self._adopt = adopt
        self._seconds = seconds
        self._orphans: deque[str] = deque(maxlen=_REMEMBERED)
        self._news = asyncio.Event()

    def tell(self, session_id: str) -> None:
        """Of a session that this gateway has let go of: it is looked at as soon as there is a place."""
        self._orphans.append(session_id)
        self._news.set()

    async def run(self) -> None:
        """For ever. When it is cancelled, so is the work on all that was adopted."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._news.clear()
                group.create_task(self._next(group), name="adoption")
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds * random.uniform(0.5, 1.5)):
                        await self._news.wait()

    async def _next(self, group: asyncio.TaskGroup) -> None:
        """One orphan, if there is a place for it; another task looks for the one behind it meanwhile."""
        if not self._admission.idle or (session_id := await self._found()) is None:
            return
        group.create_task(self._next(group), name="adoption")
        async with self._admission.try_place(self._owner(session_id)) as free:
            if not free:
                # It runs as many as it may. The store will tell of this one again.
                return
            try:
                await self._adopt(session_id)
            except ServiceError as failure:
                log.warning("orphan not finished", session_id=session_id, reason=str(failure))
            except Exception as error:
                # One that cannot be worked on must not keep the others from it.
                log.error("orphan failed", session_id=session_id, exc_info=error)

    async def _found(self) -> str | None:
        try:
            if not self._orphans:
                self._orphans.extend(await self._store.orphans(_AT_ONCE))
        except StoreError as error:
            log.info("no look for orphans", reason=str(error))
        except Exception as error:
            log.error("looking for orphans failed", exc_info=error)
        return self._orphans.popleft() if self._orphans else None
