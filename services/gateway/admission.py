"""A bounded number of sessions at once, and a bounded number that wait for a place, fair between callers."""

import asyncio
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.common.errors import LateError, OverloadedError
from services.gateway import metrics
from services.gateway.average import Average
from services.gateway.callers import Caller

# Before so many sessions have ended, nothing is said of how long others will have to wait.
_ENOUGH = 8
# When a place may come free, where nothing is known.
_GUESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    caller: Caller
    number: int
    place: asyncio.Future[None]


class Admission:
    """Places for sessions.

    A free place goes to the caller with the fewest sessions (max-min fairness), of several to who was served
    longest ago, and among a caller's own to who came first. When all that may wait do, the newest of the
    caller with the longest queue makes room for one with a shorter one. So a caller that asks for too much
    waits for itself alone.
    """

    def __init__(self, max_sessions: int, max_waiting: int) -> None:
        self._max_sessions = max_sessions
        self._max_waiting = max_waiting
        self._running: Counter[str] = Counter()
        self._waiting: defaultdict[str, deque[_Waiter]] = defaultdict(deque)
        self._numbers = itertools.count()
        self._served: dict[str, int] = {}
        self._seconds = Average()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def place(self, caller: Caller, seconds: float) -> AsyncIterator[None]:
        """Holds a place for the block.

        Raises:
            OverloadedError: too many wait already, or no place is likely to come free in time to be of use.
            LateError: no place came free within `seconds`.
        """
        if self._may_run(caller):
            self._take(caller)
        else:
            self._check_time(caller, seconds)
            self._make_room(caller)
            await self._wait(caller, seconds)
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            yield
        finally:
            self._seconds.add(clock() - begun)
            self._release(caller)

    @property
    def idle(self) -> bool:
        """Whether a place is free that nobody waits for."""
        return not self.waiting and self._running.total() < self._max_sessions

    @asynccontextmanager
    async def try_place(self, caller: Caller) -> AsyncIterator[bool]:
        """Holds a place for the block if one is free that nobody waits for; tells whether."""
        if not self.idle or not self._may_run(caller):
            yield False
            return
        self._take(caller)
        try:
            yield True
        finally:
            self._release(caller)

    def _may_run(self, caller: Caller) -> bool:
        most, running = caller.limits.max_sessions, self._running[caller.name]
        return self._running.total() < self._max_sessions and (most is None or running < most)

    def _take(self, caller: Caller) -> None:
        self._running[caller.name] += 1
        self._served[caller.name] = next(self._numbers)

    async def _wait(self, caller: Caller, seconds: float) -> None:
        waiter = _Waiter(caller, next(self._numbers), asyncio.get_running_loop().create_future())
        queue = self._waiting[caller.name]
        queue.append(waiter)
        try:
            with metrics.WAITING.track_inprogress():
                async with asyncio.timeout(seconds):
                    await waiter.place
        except BaseException as error:
            if waiter in queue:
                queue.remove(waiter)
            elif not waiter.place.cancelled() and waiter.place.exception() is None:
                # It was given a place at the very moment that it gave up.
                self._release(caller)
            if isinstance(error, TimeoutError):
                raise LateError("sessions: no place came free within the deadline") from error
            raise

    def _release(self, caller: Caller) -> None:
        self._running[caller.name] -= 1
        if not self._running[caller.name]:
            del self._running[caller.name]
        while (waiter := self._next()) is not None:
            self._waiting[waiter.caller.name].popleft()
            self._take(waiter.caller)
            waiter.place.set_result(None)

    def _next(self) -> _Waiter | None:
        """Who gets the next place, if there is one."""
        for name, queue in list(self._waiting.items()):
            # Who was cancelled has not had its turn to leave yet.
            while queue and queue[0].place.done():
                queue.popleft()
            if not queue:
                del self._waiting[name]
        first = (queue[0] for queue in self._waiting.values())
        return min(
            (waiter for waiter in first if self._may_run(waiter.caller)),
            key=lambda one: (
                self._running[one.caller.name],
                self._served.get(one.caller.name, -1),
                one.number,
            ),
            default=None,
        )

    def _make_room(self, caller: Caller) -> None:
        """Returns when one more may wait."""
        if self.waiting < self._max_waiting:
            return
        longest = max(self._waiting.values(), key=len, default=deque())
        refusal = OverloadedError(
            f"sessions: the limit is {self._max_sessions} that run and {self._max_waiting} that wait",
            self._turn_seconds(self._max_sessions),
        )
        if len(longest) <= len(self._waiting[caller.name]) + 1:
            raise refusal
        if not (newest := longest.pop()).place.done():
            newest.place.set_exception(refusal)

    def _check_time(self, caller: Caller, seconds: float) -> None:
        """Refuses at once who would wait in vain, by how long sessions have taken of late."""
        if self._seconds.count < _ENOUGH:
            return
        own = len(self._waiting[caller.name]) + 1
        # Of each other caller, no more than as many go first.
        ahead = sum(min(len(queue), own) for name, queue in self._waiting.items() if name != caller.name)
        wait = (ahead + own) * self._turn_seconds(self._max_sessions)
        if most := caller.limits.max_sessions:
            wait = max(wait, own * self._turn_seconds(most))
        if wait + self._seconds.value > seconds:
            raise OverloadedError(
                f"sessions: some {wait:.1f} s to wait and {self._seconds.value:.1f} s to work, "
                f"and the deadline is in {seconds:.1f} s",
                wait,
            )

    def _turn_seconds(self, places: int) -> float:
        """Time until one of so many places comes free, on average."""
        return (self._seconds.value if self._seconds.count >= _ENOUGH else _GUESS_SECONDS) / places
