"""Sessions in Redis, whatever the client: everything is a script."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

from services.gateway import redis_scripts as scripts
from services.gateway.store import (
    LOOK_SECONDS,
    Appended,
    Hold,
    Status,
    StoredSession,
    StoreError,
    content_names,
)

Argument = str | bytes | int

_BACKGROUND = "dreamr:background"
# So many times `limit` sessions are looked at in one search: it has an end whatever has piled up.
_ROUNDS = 32


class ScriptedStore(ABC):
    """A `Store` on top of a client that can run scripts.

    Args:
        ttl_seconds: a session is kept this long after it was last changed; longer than a lease.
    """

    durable = True

    def __init__(self, ttl_seconds: int) -> None:
        self._ttl_seconds = ttl_seconds

    @abstractmethod
    async def run(self, script: str, keys: list[str], arguments: list[Argument]) -> bytes | int:
        """Runs one of `redis_scripts`; a repeat must be harmless.

        Raises:
            StoreError: Redis cannot be reached, or fails.
        """

    @abstractmethod
    async def close(self) -> None:
        """See Store."""

    async def create(
        self,
        session_id: str,
        request: bytes,
        images: Sequence[bytes],
        lease_seconds: float,
        owner: str,
        origin: str = "",
    ) -> int:
        """See Store."""
        session, _, kept = _keys(session_id)
        names = content_names(images)
        contents = [part for pair in dict(zip(names, images, strict=True)).items() for part in pair]
        lease = _milliseconds(lease_seconds)
        arguments = [request, " ".join(names), lease, self._ttl_seconds, owner, origin, *contents]
        return int(await self.run(scripts.CREATE, [session, kept], arguments))

    async def renew(self, session_id: str, fence: int, lease_seconds: float) -> Hold:
        """See Store."""
        arguments: list[Argument] = [fence, _milliseconds(lease_seconds), self._ttl_seconds]
        return Hold(await self._word(scripts.RENEW, session_id, arguments))

    async def take_over(self, session_id: str, lease_seconds: float, owner: str) -> int:
        """See Store."""
        arguments: list[Argument] = [_milliseconds(lease_seconds), owner]
        return int(await self.run(scripts.TAKE_OVER, _keys(session_id)[:1], arguments))

    async def cancel(self, session_id: str) -> bool:
        """See Store."""
        return bool(await self.run(scripts.CANCEL, _keys(session_id), [self._ttl_seconds]))

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Appended:
        """See Store."""
        return Appended(await self._word(scripts.APPEND, session_id, [fence, index, step, self._ttl_seconds]))

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """See Store."""
        arguments: list[Argument] = [fence, status.value, outcome, self._ttl_seconds]
        return bool(await self.run(scripts.END, _keys(session_id), arguments))

    async def load(
        self, session_id: str, first: int = 0, *, with_images: bool = True
    ) -> StoredSession | None:
        """See Store."""
        packed = await self.run(scripts.LOAD, _keys(session_id), [first, int(with_images)])
        assert isinstance(packed, bytes)
        if not packed:
            return None
        request, status, fence, held, takeovers, names, outcome, origin, count, *rest = _unpacked(packed)
        kept = rest[int(count) :]
        images = dict(zip(kept[::2], kept[1::2], strict=True))
        running = status == Status.RUNNING.encode()
        if with_images and running and not images.keys() >= set(names.split()):
            # Without its pictures it would be reasoned on in the dark.
            raise StoreError(f"images of session {session_id} are gone: does Redis evict keys?")
        return StoredSession(
            request=request,
            status=Status(status.decode()),
            fence=int(fence),
            held=held == b"1",
            takeovers=int(takeovers),
            first=first,
            steps=tuple(rest[: int(count)]),
            image_names=tuple(names.decode().split()),
            images=tuple(images[name] for name in names.split()) if with_images and running else (),
            outcome=outcome,
            origin=origin.decode(),
        )

    async def register(self, session_id: str, seconds: float) -> None:
        """See Store."""
        arguments: list[Argument] = [session_id, _milliseconds(seconds), self._ttl_seconds]
        await self.run(scripts.REGISTER, [_BACKGROUND], arguments)

    async def orphans(self, limit: int) -> list[str]:
        """See Store."""
        found: list[str] = []
        for _ in range(_ROUNDS):
            due = await self.run(
                scripts.DUE, [_BACKGROUND], [limit - len(found), _milliseconds(LOOK_SECONDS)]
            )
            assert isinstance(due, bytes)
            looks = {name: await self._word(scripts.LOOK, name, []) for name in due.decode().split()}
            found += [name for name, look in looks.items() if look == "orphan"]
            if ended := [name for name, look in looks.items() if look == "ended"]:
                await self.run(scripts.FORGET, [_BACKGROUND], list(ended))
            if not looks or len(found) >= limit:
                break
        return found

    async def _word(self, script: str, session_id: str, arguments: list[Argument]) -> str:
        word = await self.run(script, _keys(session_id), arguments)
        assert isinstance(word, bytes)
        return word.decode()


def _keys(session_id: str) -> list[str]:
    return [f"dreamr:{{{session_id}}}:{name}" for name in ("session", "steps", "images")]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _unpacked(packed: bytes) -> list[bytes]:
    """Parts that stand behind their lengths."""
    parts, at = [], 0
    while at < len(packed):
        (length,) = struct.unpack_from(">I", packed, at)
        parts.append(packed[at + 4 : at + 4 + length])
        at += 4 + length
    return parts
