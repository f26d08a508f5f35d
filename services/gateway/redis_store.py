"""Sessions in Redis, through redis-py's asyncio client.

Keys, all of one session under one `{id}` hash tag so that they share a cluster's slot:
`dreamr:{id}:session` (hash: request, status, fence, leased until, outcome, and the images' content hashes in
order),
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

from services.gateway.store import Appended, Hold, Status, StoredSession, StoreError

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
local found = redis.call('HMGET', KEYS[1], 'fence', 'status')
if found[1] ~= ARGV[1] or found[2] ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'outcome', ARGV[3])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
return 1
"""

# Milliseconds, by the server's clock: gateways' clocks differ.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: session, images. ARGV: request, images' hashes in order, lease in ms, seconds to live, then hash and
# content of each image.
_CREATE = (
    _NOW
    + """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], 'request', ARGV[1], 'status', 'running', 'fence', 1, 'images', ARGV[2],
    'leased', now + ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
for at = 5, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 1
"""
)

# KEYS: session, steps, images. ARGV: fence, lease in ms, seconds to live.
_RENEW = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'fence', 'status')
if not found[1] then return 'no_session' end
if found[2] == 'cancelled' then return 'cancelled' end
if found[1] ~= ARGV[1] or found[2] ~= 'running' then return 'taken' end
redis.call('HSET', KEYS[1], 'leased', now + ARGV[2])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[3]) end
return 'ours'
"""
)

# KEYS: session. ARGV: lease in ms. A new fence, only where a session runs that nobody holds.
_TAKE_OVER = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'status', 'leased')
if found[1] ~= 'running' or tonumber(found[2]) > now then return 0 end
redis.call('HSET', KEYS[1], 'leased', now + ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'fence', 1)
"""
)

# KEYS: session, steps, images. ARGV: seconds to live.
_CANCEL = """
if redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', 'cancelled')
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[1]) end
return 1
"""

# KEYS: session, steps, images. ARGV: index of the first step. Everything as of one moment.
_LOAD = (
    _NOW
    + """
local found = redis.call('HMGET', KEYS[1], 'request', 'status', 'fence', 'leased', 'images', 'outcome')
if not found[1] then return {} end
return {found[1], found[2], found[3], tonumber(found[4]) > now and 1 or 0, found[5], found[6] or '',
    redis.call('LRANGE', KEYS[2], ARGV[1], -1), redis.call('HGETALL', KEYS[3])}
"""
)


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
        scripts = (_APPEND, _END, _CREATE, _RENEW, _TAKE_OVER, _CANCEL, _LOAD)
        self._scripts = {script: self._redis.register_script(script) for script in scripts}

    async def create(
        self, session_id: str, request: bytes, images: Sequence[bytes], lease_seconds: float
    ) -> int:
        """See Store."""
        session, _, kept = _keys(session_id)
        names = [hashlib.sha256(image).hexdigest() for image in images]
        contents = [part for pair in dict(zip(names, images, strict=True)).items() for part in pair]
        arguments = [request, " ".join(names), _milliseconds(lease_seconds), self._ttl_seconds, *contents]
        return int(await self._run(_CREATE, [session, kept], arguments))

    async def renew(self, session_id: str, fence: int, lease_seconds: float) -> Hold:
        """See Store."""
        arguments = [fence, _milliseconds(lease_seconds), self._ttl_seconds]
        return Hold((await self._run(_RENEW, _keys(session_id), arguments)).decode())

    async def take_over(self, session_id: str, lease_seconds: float) -> int:
        """See Store."""
        session, *_ = _keys(session_id)
        return int(await self._run(_TAKE_OVER, [session], [_milliseconds(lease_seconds)]))

    async def cancel(self, session_id: str) -> bool:
        """See Store."""
        return bool(await self._run(_CANCEL, _keys(session_id), [self._ttl_seconds]))

    async def append(self, session_id: str, fence: int, index: int, step: bytes) -> Appended:
        """See Store."""
        result = await self._run(_APPEND, _keys(session_id), [fence, index, step, self._ttl_seconds])
        return Appended(result.decode())

    async def end(self, session_id: str, fence: int, status: Status, outcome: bytes = b"") -> bool:
        """See Store."""
        return bool(await self._run(_END, _keys(session_id), [fence, status, outcome, self._ttl_seconds]))

    async def load(self, session_id: str, first: int = 0) -> StoredSession | None:
        """See Store."""
        found = await self._run(_LOAD, _keys(session_id), [first])
        if not found:
            return None
        request, status, fence, held, names, outcome, steps, kept = found
        images = dict(zip(kept[::2], kept[1::2], strict=True))
        return StoredSession(
            request=request,
            status=Status(status.decode()),
            fence=int(fence),
            held=bool(held),
            first=first,
            steps=tuple(steps),
            images=tuple(images[name] for name in names.split() if name in images),
            outcome=outcome,
        )

    async def _run(self, script: str, keys: list[str], arguments: list[Any]) -> Any:
        async with _errors():
            return await self._scripts[script](keys=keys, args=arguments)

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _keys(session_id: str) -> list[str]:
    return [f"dreamr:{{{session_id}}}:{name}" for name in ("session", "steps", "images")]


@asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, ValueError) as error:
        raise StoreError(f"redis: {error}") from error
