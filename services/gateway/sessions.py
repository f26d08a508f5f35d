"""One running session's hold on the store."""

import hashlib
import uuid

import structlog

from dreamr.v1 import gateway_pb2
from services.gateway.store import Appended, Status, Store, StoreError

log = structlog.get_logger()


class Session:
    """A session that this gateway owns: it appends commits under its fence.

    When the store fails, the session goes on and is no longer durable.
    """

    def __init__(self, store: Store, session_id: str) -> None:
        self.id = session_id
        self.durable = store.durable
        self.committed = 0
        self._store = store
        self._fence = 0

    @classmethod
    async def open(cls, store: Store, request: gateway_pb2.ReasonRequest) -> "Session":
        """Stores a new session; with the store away it is born not durable."""
        session = cls(store, uuid.uuid4().hex)
        bare = gateway_pb2.ReasonRequest(question=request.question, options=request.options)
        images = {hashlib.sha256(image.data).hexdigest(): image.data for image in request.images}
        try:
            session._fence = await store.create(session.id, bare.SerializeToString(), images)
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
            if result not in (Appended.DONE, Appended.REPEATED):
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
        self.durable = False
