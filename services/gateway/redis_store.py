"""Sessions in Redis, through redis-py's asyncio client.

Keys, all of one session under one `{id}` hash tag so that they share a cluster's slot:
`dreamr:{id}:session` (hash: request, status, fence, images, outcome), `dreamr:{id}:steps` (list), and
`dreamr:{id}:image:SHA256`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.gateway.store import Appended, Status, StoredSession, StoreError

# KEYS: session, steps. ARGV: fence, index, step, seconds to live.
_APPEND = """
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence then return 'no_session' end
if fence ~= ARGV[1] then return 'stale_fence' end
local index, length = tonumber(ARGV[2]), redis.call('LLEN', KEYS[2])
if index < length and redis.call('LINDEX', KEYS[2], index) == ARGV[3] then return 'repeated' end
if index ~= length then return 'wrong_index' end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 'done'
"""

# KEYS: session. ARGV: fence, status, outcome, seconds to live.
_END = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'outcome', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""

# KEYS: session. A new fence, only where there is a session.
_TAKE_OVER = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('HINCRBY', KEYS[1], 'fence', 1)
"""


class RedisStore:
    """A `Store`.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        ttl_seconds: a session is kept this long after it was last changed.
        timeout_seconds: how long one command may take; Redis away must hang no request.
    """

    durable = True

    def __init__(self, url: str, ttl_seconds: int, timeout_seconds: float = 1.0) -> None:
        self._ttl_seconds = ttl_seconds
        self._redis: Any = redis.asyncio.Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            max_connections=64,
            # A pooled connection that a restarted Redis has closed is replaced once; every script may be
            # repeated. What is slow is not tried again: a request waits for it.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._append = self._redis.register_script(_APPEND)
        self._end = self._redis.register_script(_END)
        self._take_over = self._redis.register_script(_TAKE_OVER)

    async def create(self, session_id: str, request: bytes, images: Mapping[str, bytes]) -> int:
        """See Store."""
        session, _ = _keys(session_id)
        fields = {"request": request, "status": Status.RUNNING, "fence": 1, "images": " ".join(images)}
        async with _errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(session, mapping=fields)
            pipe.expire(session, self._ttl_seconds)
            for name, data in images.items():
                pipe.set(_image_key(session_id, name), data, ex=self._ttl_seconds)
            await pipe.execute()
        return 1

    async def take_over(self, session_id: str) -> int:
        """See Store."""
        session, _ = _keys(session_id)
        async with _errors():
            return int(await self._take_over(keys=[session]))

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Appended:
        """See Store."""
        async with _errors():
            result = await self._append(keys=_keys(session_id), args=[fence, index, step, self._ttl_seconds])
        return Appended(result.decode())

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """See Store."""
        session, _ = _keys(session_id)
        async with _errors():
            return bool(await self._end(keys=[session], args=[fence, status, outcome, self._ttl_seconds]))

    async def load(self, session_id: str) -> StoredSession | None:
        """See Store."""
        session, steps = _keys(session_id)
        async with _errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hgetall(session)
                pipe.lrange(steps, 0, -1)
                fields, stored = await pipe.execute()
            if not fields:
                return None
            names = fields[b"images"].decode().split()
            found = await self._redis.mget([_image_key(session_id, name) for name in names]) if names else []
        return StoredSession(
            request=fields[b"request"],
            status=Status(fields[b"status"].decode()),
            fence=int(fields[b"fence"]),
            steps=tuple(stored),
            images={name: data for name, data in zip(names, found, strict=True) if data is not None},
            outcome=fields.get(b"outcome", b""),
        )

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()


def _keys(session_id: str) -> list[str]:
    return [f"dreamr:{{{session_id}}}:session", f"dreamr:{{{session_id}}}:steps"]


def _image_key(session_id: str, name: str) -> str:
    return f"dreamr:{{{session_id}}}:image:{name}"


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, ValueError) as error:
        raise StoreError(f"redis: {error}") from error
