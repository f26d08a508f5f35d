"""One running session's hold on the store."""

import uuid
from collections.abc import Sequence

import structlog

from dreamr.v1 import gateway_pb2
from services.gateway.store import Appended, Status, Store, StoreError

log = structlog.get_logger()


class Session:
    """A session that this gateway owns: it appends commits under its fence.

    When the store fails, the session goes on and is no longer durable.

    Attributes:
        committed: steps so far.
        stored: steps of these that the store has.
        lost: why the session is not durable though its store is; empty otherwise.
    """

    def __init__(self, store: Store, session_id: str) -> None:
        self.id = session_id
        self.durable = store.durable
        self.committed = 0
        self.stored = 0
        self.lost = ""
        self._store = store
        self._fence = 0

    @classmethod
    async def open(
        cls, store: Store, question: str, options: gateway_pb2.ReasonOptions, images: Sequence[bytes]
    ) -> "Session":
        """Stores a new session; with the store away it is born not durable.

        Args:
            options: resolved, so that another gateway would go on by the same plan.
        """
        session = cls(store, uuid.uuid4().hex)
        request = gateway_pb2.ReasonRequest(question=question, options=options).SerializeToString()
        try:
            session._fence = await store.create(session.id, request, images)
        except StoreError as error:
            session._lose(str(error))
        return session

    async def append(self, commit: gateway_pb2.Commit) -> None:
        """Stores a commit before the client hears of it."""
        self.committed = commit.index + 1
        if not self._fence:
            return
        try:
            result = await self._store.append(
                self.id, self._fence, commit.index, commit.SerializeToString(deterministic=True)
            )
        except StoreError as error:
            self._lose(str(error))
        else:
            if result in (Appended.DONE, Appended.REPEATED):
                self.stored = commit.index + 1
            else:
                self._lose(f"append was refused: {result}")

    async def end(self, status: Status, finished: gateway_pb2.Finished | None = None) -> None:
        """Stores how the session ended."""
        if not self._fence:
            return
        outcome = finished.SerializeToString() if finished else b""
        try:
            await self._store.end(self.id, self._fence, status, outcome)
        except StoreError as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        log.warning("session is not durable", reason=why)
        self._fence = 0
        self.durable, self.lost = False, why
