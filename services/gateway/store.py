"""Where sessions live: what a gateway needs of any store.

A session is its request, its images (by content hash), its committed steps and how it ended. Only the holder
of the newest fence may append, and only at the end: a stale fence or a wrong index changes nothing, a repeat
is harmless. The holder has a lease, which it renews; once that has lapsed another may take the session over.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

LOOK_SECONDS = 1.0
"""An orphan that `Store.orphans` has told of and that nobody took over is told of again after so long."""


class StoreError(Exception):
    """The store cannot be reached, or answered what it should not."""


class Appended(StrEnum):
    """What became of an append."""

    DONE = "done"
    REPEATED = "repeated"
    STALE_FENCE = "stale_fence"
    WRONG_INDEX = "wrong_index"
    ENDED = "ended"
    NO_SESSION = "no_session"


class Hold(StrEnum):
    """Whether a session is still its holder's."""

    OURS = "ours"
    TAKEN = "taken"
    CANCELLED = "cancelled"
    NO_SESSION = "no_session"


class Status(StrEnum):
    """Where a session stands."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it was stored.

    Attributes:
        request: a serialised `dreamr.v1.ReasonRequest` without its images, with every option resolved.
        image_names: their contents' hashes (see `content_names`), in the request's order.
        images: likewise, while it runs; a store keeps one copy of each content.
        held: somebody's lease on it has not lapsed.
        takeovers: how often it has changed hands since its last step.
        first: index of the first of `steps`.
        steps: serialised `dreamr.v1.Commit` messages, in order.
        outcome: a serialised `dreamr.v1.Finished` once finished, otherwise empty.
        origin: the span in which it began (`tracing.Span.origin`), for whoever goes on with it.
    """

    request: bytes
    status: Status
    fence: int
    held: bool = False
    takeovers: int = 0
    first: int = 0
    steps: tuple[bytes, ...] = ()
    image_names: tuple[str, ...] = ()
    images: tuple[bytes, ...] = ()
    outcome: bytes = b""
    origin: str = ""


def content_names(images: Sequence[bytes]) -> list[str]:
    """What images are known by: their contents' SHA-256, in hex."""
    return [hashlib.sha256(image).hexdigest() for image in images]


class Store(Protocol):
    """Sessions with their committed steps. Every method raises StoreError when the store fails."""

    durable: bool
    """Whether what is stored outlives this process."""

    async def create(
        self,
        session_id: str,
        request: bytes,
        images: Sequence[bytes],
        lease_seconds: float,
        owner: str,
        origin: str = "",
    ) -> int:
        """Stores a new session and returns its first fence; 0 when there is one of that id already.

        Args:
            owner: a name that nobody else has. To it a repeat says the same as the first time, of which it
                may not have heard.
            origin: see StoredSession.
        """
        ...

    async def renew(self, session_id: str, fence: int, lease_seconds: float) -> Hold:
        """Holds the session for so long from now on, unless it is the caller's no more; 0 lets go of it."""
        ...

    async def take_over(self, session_id: str, lease_seconds: float, owner: str) -> int:
        """A new fence, which makes all older ones stale, with a lease.

        0 when there is no such session, when it has ended, or while somebody else holds it.

        Args:
            owner: see `create`.
        """
        ...

    async def cancel(self, session_id: str) -> bool:
        """Ends a session that runs, whoever holds it; false when there is none."""
        ...

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Appended:
        """Appends a step at `index`, which must be the number of steps so far, to a session that runs."""
        ...

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """Sets how the session ended and lets it expire, images at once; false when the fence is stale."""
        ...

    async def load(
        self, session_id: str, first: int = 0, *, with_images: bool = True
    ) -> StoredSession | None:
        """The session as it stands, with its steps from `first` on; None when there is none."""
        ...

    async def register(self, session_id: str, seconds: float) -> None:
        """Lists a session for `orphans`, which looks at it in so many seconds, and not before.

        It need not be there yet. What the list has is a hint and may get lost, so whoever holds the session
        does this again and again.
        """
        ...

    async def orphans(self, limit: int) -> list[str]:
        """Registered sessions whose time has come, that run and that nobody holds; so many at most.

        Those that have ended are dropped from the list.
        """
        ...

    async def close(self) -> None:
        """Lets go of connections."""
        ...
