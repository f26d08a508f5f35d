"""What a session tells its client, in order: stored first, then sent. The machine does not wait for it."""

import asyncio
from collections.abc import Awaitable, Callable

from dreamr.v1 import gateway_pb2
from services.gateway.sessions import Session
from services.gateway.store import Status

# A client that reads slowly holds its own session up once this much is waiting, and nobody else's.
_CAPACITY = 256

Note = Callable[[gateway_pb2.ReasonResponse], None]


class Outbox:
    """A bounded queue with one drain.

    Args:
        note: hears of all that happens, at once.
        with_activity: so does the client; else it is not told of that.
    """

    def __init__(
        self,
        session: Session,
        send: Callable[[gateway_pb2.ReasonResponse], Awaitable[None]],
        note: Note,
        *,
        with_activity: bool,
    ) -> None:
        self._session = session
        self._send = send
        self._note = note
        self._with_activity = with_activity
        self._queue: asyncio.Queue[gateway_pb2.ReasonResponse | None] = asyncio.Queue(_CAPACITY)

    async def begin(self, started: gateway_pb2.Started, *, told: bool) -> None:
        """The session begins, or goes on: then its client has heard of that already."""
        response = gateway_pb2.ReasonResponse(started=started)
        self._note(response)
        if not told:
            await self._queue.put(response)

    async def put(self, response: gateway_pb2.ReasonResponse) -> None:
        """Takes what happened."""
        self._note(response)
        if self._with_activity or not response.HasField("activity"):
            await self._queue.put(response)

    async def close(self) -> None:
        """No more will come; `drain` returns when all is sent."""
        await self._queue.put(None)

    async def drain(self) -> None:
        """Stores commits and the end, then sends, until closed. The last message tells of what is not stored.

        A commit that somebody else's may stand in place of is not sent, nor is anything behind it.
        """
        ours = True
        while (response := await self._queue.get()) is not None:
            if response.HasField("commit"):
                ours = ours and await self._session.append(response.commit)
            elif response.HasField("finished"):
                if not await self._session.end(Status.FINISHED, response.finished):
                    response.finished.degraded.append(f"store: {self._session.away}")
                ours = self._session.lost is None
            if ours:
                await self._send(response)
