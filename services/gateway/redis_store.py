"""Sessions in Redis, through redis-py's asyncio client.

Keys, all of one session under one `{id}` hash tag so that they share a cluster's slot:
`dreamr:{id}:session` (hash: request, status, fence, outcome, and the images' content hashes in order),
`dreamr:{id}:steps` (list) and `dreamr:{id}:images` (hash: content hash to bytes). They expire together.
"""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.gateway.store import Appended, Status, StoredSession, StoreError

# KEYS: session, steps, images. ARGV: fence, index, step, seconds to live.
_APPEND = """
local fence = redis.call('HGET', KEYS[1], 'fence')
if not fence then return 'no_session' end
if fence ~= ARGV[1] then return 'stale_fence' end
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 'ended' end
local index, length = tonumber(ARGV[2]), redis.call('LLEN', KEYS[2])
if index < length and redis.call('LINDEX', KEYS[2], index) == ARGV[3] then return 'repeated' end
if index ~= length then return 'wrong_index' end
redis.call('RPUSH', KEYS[2], ARGV[3])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
return 'done'
"""

# KEYS: session, steps, images. ARGV: fence, status, outcome, seconds to live.
_END = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'outcome', ARGV[3])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
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
        ttl_seconds: a session is kept this long after it was last changed; longer than one may run.
        timeout_seconds: how long one command may take; Redis away must hang no request.
    """

    durable = True

    def __init__(self, url: str, ttl_seconds: int, timeout_seconds: float = 1.0) -> None:
        self._ttl_seconds = ttl_seconds
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            # Who finds none free waits for one, as long as for a reply.
            max_connections=64,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # A pooled connection that a restarted Redis has closed is replaced once; every script may be
            # repeated. What is slow is not tried again: a request waits for it.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        self._append = self._redis.register_script(_APPEND)
        self._end = self._redis.register_script(_END)
        self._take_over = self._redis.register_script(_TAKE_OVER)

    async def create(self, session_id: str, request: bytes, images: Sequence[bytes]) -> int:
        """See Store."""
        session, _, kept = _keys(session_id)
        names = [hashlib.sha256(image).hexdigest() for image in images]
        fields = {"request": request, "status": Status.RUNNING, "fence": 1, "images": " ".join(names)}
        async with _errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(session, mapping=fields)
            pipe.expire(session, self._ttl_seconds)
            if images:
                pipe.hset(kept, mapping=dict(zip(names, images, strict=True)))
                pipe.expire(kept, self._ttl_seconds)
            await pipe.execute()
        return 1

    async def take_over(self, session_id: str) -> int:
        """See Store."""
        session, *_ = _keys(session_id)
        async with _errors():
            return int(await self._take_over(keys=[session]))

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Appended:
        """See Store."""
        async with _errors():
            result = await self._append(keys=_keys(session_id), args=[fence, index, step, self._ttl_seconds])
        return Appended(result.decode())

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """See Store."""
        async with _errors():
            ended = await self._end(keys=_keys(session_id), args=[fence, status, outcome, self._ttl_seconds])
        return bool(ended)

    async def load(self, session_id: str) -> StoredSession | None:
        """See Store."""
        session, steps, kept = _keys(session_id)
        async with _errors(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(session)
            pipe.lrange(steps, 0, -1)
            pipe.hgetall(kept)
            fields, stored, images = await pipe.execute()
        if not fields:
            return None
        return StoredSession(
            request=fields[b"request"],
            status=Status(fields[b"status"].decode()),
            fence=int(fields[b"fence"]),
            steps=tuple(stored),
            images=tuple(images[name] for name in fields[b"images"].split() if name in images),
            outcome=fields.get(b"outcome", b""),
        )

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()


def _keys(session_id: str) -> list[str]:
    return [f"dreamr:{{{session_id}}}:{name}" for name in ("session", "steps", "images")]


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, ValueError) as error:
        raise StoreError(f"redis: {error}") from error
