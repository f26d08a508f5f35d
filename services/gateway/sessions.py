"""One running session's hold on the store."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from dreamr.v1 import gateway_pb2
from services.common import tracing
from services.common.errors import HandedOverError, ServiceError, SessionCancelledError
from services.gateway import metrics
from services.gateway.store import Appended, Hold, Status, Store, StoredSession, StoreError

log = structlog.get_logger()

RENEWALS = 3
"""Within the life of a lease."""

_AGAIN_SECONDS = 0.1

# However often a session was taken over, the next time is no more than 2 to this power leases away.
_MOST_DOUBLINGS = 10

_NAMES = uuid.UUID("6fa1f0f6-5f0b-4c55-9f5c-3a2f6d0e9c1b")


class Session:
    """A session that this gateway holds: it appends commits under its fence, and renews its lease.

    When the store fails the session goes on, not durable, and is written back as soon as the store is there
    again. When somebody else holds it, or it was cancelled, it is lost: nothing more is to be told of it.

    Attributes:
        background: it is to be worked on to its end though nobody listens.
        stored: committed steps that the store has.
        away: why the session is not durable though its store is; empty otherwise.
        lost: why it is not this gateway's any more.
    """

    def __init__(self, store: Store, session_id: str, lease_seconds: float, request: bytes) -> None:
        self.id = session_id
        self.background = gateway_pb2.ReasonRequest.FromString(request).background
        self.stored = 0
        self.away = ""
        self._store = store
        self._lease_seconds = lease_seconds
        self._request = request
        self._images: Sequence[bytes] = ()
        self._origin = ""
        self._fence = 0
        # Another one each time that a gateway has to do with the session.
        self._owner = uuid.uuid4().hex
        self._takeovers = 0
        self._steps: list[bytes] = []
        self.lost: ServiceError | None = None
        self._ended = False
        self._loss = asyncio.Event()
        # Until then nobody takes it over, for all that this gateway knows.
        self._held_until = self._now() + lease_seconds
        self._writing = asyncio.Lock()

    @property
    def committed(self) -> int:
        """Steps so far."""
        return len(self._steps)

    @property
    def size(self) -> int:
        """Bytes of it that a store keeps while it runs."""
        return sum(map(len, (self._request, *self._steps, *set(self._images))))

    @property
    def durable(self) -> bool:
        """Whether the store outlives this process and has all of it."""
        return self._store.durable and not self.away

    @classmethod
    def id_of(cls, request_id: str, tag: str = "") -> str:
        """The id of the session that a caller's request begins, the same for the same request id."""
        return tag + (uuid.uuid5(_NAMES, request_id) if request_id else uuid.uuid4()).hex

    @classmethod
    async def open(
        cls, store: Store, session_id: str, request: bytes, images: Sequence[bytes], lease_seconds: float
    ) -> "Session | None":
        """Stores a new session; with the store away it is born not durable. None: there is one of that id.

        Args:
            request: serialised, with options resolved, so that another gateway would go on by the same plan.
        """
        session = cls(store, session_id, lease_seconds, request)
        session._images = images
        session._origin = tracing.current().origin
        await session._register()
        try:
            session._fence = await store.create(
                session_id, request, images, lease_seconds, session._owner, session._origin
            )
        except StoreError as error:
            session._note_away(str(error))
        else:
            if not session._fence:
                return None
        return session

    @classmethod
    async def take_over(
        cls, store: Store, session_id: str, lease_seconds: float
    ) -> "tuple[Session, StoredSession] | None":
        """A session that nobody holds, as it stands; None when somebody does, or it has ended.

        Raises:
            StoreError: the store fails.
        """
        owner, began = uuid.uuid4().hex, cls._now()
        fence = await store.take_over(session_id, lease_seconds, owner)
        if not fence:
            return None
        try:
            stored = await store.load(session_id)
        except BaseException:
            # Nobody would work on it until the lease lapses.
            with suppress(StoreError):
                await asyncio.shield(store.renew(session_id, fence, 0))
            raise
        if stored is None:
            return None
        session = cls(store, session_id, lease_seconds, stored.request)
        session._images, session._origin = stored.images, stored.origin
        session._fence, session._owner = fence, owner
        session._held_until = began + lease_seconds
        session._takeovers = stored.takeovers
        session._steps = list(stored.steps)
        session.stored = len(session._steps)
        await session._register()
        return session, stored

    async def append(self, commit: gateway_pb2.Commit) -> bool:
        """Stores a commit before the client hears of it; false where it must not, since it is not ours."""
        self._steps.append(commit.SerializeToString(deterministic=True))
        await self._write()
        return self.lost is None

    async def keep(self, lost: Callable[[ServiceError], None]) -> None:
        """Renews the lease for ever, and writes back what the store has missed.

        Args:
            lost: told, once, that the session is not this gateway's any more.
        """
        while self.lost is None:
            try:
                async with asyncio.timeout(self._lease_seconds / RENEWALS):
                    await self._loss.wait()
            except TimeoutError:
                await self._write(renew=True)
        lost(self.lost)

    async def end(
        self, status: Status, finished: gateway_pb2.Finished | None = None, *, patience: float = 0.0
    ) -> bool:
        """Stores how the session ended; false where the store is away for longer than `patience` seconds."""
        outcome = finished.SerializeToString() if finished else b""
        if await self._leave(lambda fence: self._store.end(self.id, fence, status, outcome), patience):
            self._ended = True
        return self._ended

    async def release(self) -> bool:
        """Lets go of a session that has not ended: whoever resumes it goes on from here, at once.

        What its client was told must be stored before, so a store that is away is given a lease's time; false
        where it takes longer.
        """

        async def let_go(fence: int) -> bool:
            return await self._store.renew(self.id, fence, 0) is Hold.OURS

        return await self._leave(let_go, self._lease_seconds)

    async def _leave(self, last: Callable[[int], Awaitable[bool]], patience: float) -> bool:
        """Brings the store up to date, and then has the last word with it.

        Args:
            last: by the fence; false where the session is not there, or not ours.
        """
        clock, renew = asyncio.get_running_loop().time, False
        until = clock() + patience
        while True:
            await self._write(renew=renew)
            if self.lost is not None or self._ended:
                return True
            try:
                if not self.away and await last(self._fence):
                    return True
            except StoreError as error:
                self._note_away(str(error))
            if self.away:
                if clock() + _AGAIN_SECONDS >= until:
                    return False
                await asyncio.sleep(_AGAIN_SECONDS)
            # Renewing tells what is the matter, and writes back what is not there any more.
            renew = True

    async def _write(self, *, renew: bool = False) -> None:
        """Brings the store up to date, in order; what it cannot take now waits."""
        async with self._writing:
            if self.lost is not None or self._ended:
                return
            try:
                try:
                    await self._store_all(renew)
                except StoreError:
                    # A process that was frozen finds that its time is over, which says nothing of the store;
                    # and meanwhile another may hold the session.
                    if self.away or self._now() < self._held_until:
                        raise
                    await self._store_all(renew)
            except StoreError as error:
                self._note_away(str(error))
            else:
                if self.away and self.lost is None:
                    log.info("session is durable again")
                self.away = ""

    async def _store_all(self, renew: bool) -> None:
        began = self._now()
        if renew:
            await self._register()
        if renew and self._fence:
            self._check(await self._store.renew(self.id, self._fence, self._lease_seconds))
            self._held_until = began + self._lease_seconds
        if not self._fence:
            await self._create()
        while self.stored < len(self._steps) and self.lost is None:
            step = self._steps[self.stored]
            appended = await self._store.append(self.id, self._fence, self.stored, step)
            if appended is Appended.NO_SESSION:
                await self._create()
            elif not (appended is Appended.WRONG_INDEX and await self._rewound()):
                self._check_appended(appended)
                self.stored += self.lost is None
                self._takeovers = 0

    async def _create(self) -> None:
        """Stores it for the first time, or anew where the store has forgotten everything."""
        began = self._now()
        self._fence = await self._store.create(
            self.id, self._request, self._images, self._lease_seconds, self._owner, self._origin
        )
        self._held_until = began + self._lease_seconds
        self.stored = 0
        if not self._fence:
            self._lose(HandedOverError("another gateway has begun this session meanwhile"))

    async def _rewound(self) -> bool:
        """Whether the store has only forgotten the last steps, as when a replica stands in for its master."""
        found = await self._store.load(self.id, with_images=False)
        if found is None or (found.fence, found.status) != (self._fence, Status.RUNNING):
            return False
        if (count := len(found.steps)) >= self.stored or list(found.steps) != self._steps[:count]:
            return False
        log.warning("the store has lost steps; they are written again", lost=self.stored - count)
        self.stored = count
        return True

    async def _register(self) -> None:
        """Lets other gateways look for a session in the background, should this one go.

        Each time it was taken over without a step they wait twice as long: it may be what brings gateways
        down, or the target may be away.
        """
        if self.background:
            doublings = min(self._takeovers, _MOST_DOUBLINGS)
            # It is done again with each renewal.
            with suppress(StoreError):
                await self._store.register(self.id, self._lease_seconds * 2**doublings)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _check(self, hold: Hold) -> None:
        if hold is Hold.CANCELLED:
            self._lose(SessionCancelledError("the session was cancelled"))
        elif hold is Hold.NO_SESSION:
            # A store that came back empty; nobody can have taken over what is not there.
            self._fence = 0
        elif hold is not Hold.OURS:
            self._lose(HandedOverError(f"the session is held by another gateway ({hold})"))

    def _check_appended(self, appended: Appended) -> None:
        if appended is Appended.ENDED:
            self._lose(SessionCancelledError("the session was cancelled"))
        elif appended not in (Appended.DONE, Appended.REPEATED):
            self._lose(HandedOverError(f"the session is held by another gateway ({appended})"))

    def _lose(self, why: ServiceError) -> None:
        log.warning("session lost", reason=str(why))
        self.lost = why
        self._loss.set()

    def _note_away(self, why: str) -> None:
        metrics.STORE_FAILURES.inc()
        if not self.away:
            log.warning("session is not durable", reason=why)
        self.away = why
