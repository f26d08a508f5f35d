"""Sessions in Redis, through asyncio-redis: for those who have it already. It is not maintained any more.

What it lacks is refused when the gateway starts: TLS, users (ACL), sockets. What it does otherwise than it
should: connecting to a server that is down retries for ever, so everything here has a deadline; a script that
a restarted Redis has forgotten is reported as killed, so it is loaded once more; a list of strings from a
script is not readable at all (see `redis_scripts.LOAD`).
"""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import asyncio_redis
from asyncio_redis.encoders import BytesEncoder

from services.gateway.scripted_store import Argument, ScriptedStore
from services.gateway.store import StoreError

_CONNECTIONS = 4
"""Commands of many callers share one; more than one since a large image holds others up."""


class UnsupportedUrlError(ValueError):
    """asyncio-redis cannot do what the URL asks for; the message says what can."""


class AsyncioRedisStore(ScriptedStore):
    """A `Store`.

    Args:
        url: `redis://[:PASSWORD@]HOST[:PORT][/DATABASE]`.
        ttl_seconds: see ScriptedStore.
        timeout_seconds: how long one command may take, connecting included.

    Raises:
        UnsupportedUrlError: it needs what the client has not.
    """

    def __init__(self, url: str, ttl_seconds: int, timeout_seconds: float = 1.0) -> None:
        super().__init__(ttl_seconds)
        self._address = _address(url)
        self._timeout_seconds = timeout_seconds
        self._pool: Any = None
        self._connecting = asyncio.Lock()
        self._hashes: dict[str, str] = {}

    async def run(self, script: str, keys: list[str], arguments: list[Argument]) -> bytes | int:
        """See ScriptedStore."""
        names = [key.encode() for key in keys]
        values = [value if isinstance(value, bytes) else str(value).encode() for value in arguments]
        try:
            async with asyncio.timeout(self._timeout_seconds):
                pool = await self._connected()
                try:
                    return await self._evaluate(pool, script, names, values)
                except asyncio_redis.ScriptKilledError:
                    self._hashes.pop(script, None)
                    return await self._evaluate(pool, script, names, values)
        except TimeoutError as error:
            raise StoreError("redis: no answer in time") from error
        except (asyncio_redis.Error, OSError) as error:
            raise StoreError(f"redis: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """See Store."""
        if self._pool is not None:
            self._pool.close()

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._pool is None:
                self._pool = await asyncio_redis.Pool.create(
                    **self._address, encoder=BytesEncoder(), poolsize=_CONNECTIONS
                )
            return self._pool

    async def _evaluate(self, pool: Any, script: str, keys: list[bytes], values: list[bytes]) -> bytes | int:
        if script not in self._hashes:
            self._hashes[script] = await pool.script_load(script)
        reply = await pool.evalsha(self._hashes[script], keys, values)
        found: bytes | int = await reply.return_value()
        return found


def _address(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    lacking = {
        "TLS": parts.scheme == "rediss",
        "sockets": parts.scheme == "unix",
        "users (ACL)": bool(parts.username),
        "options in the URL": bool(parts.query),
    }
    if parts.scheme not in ("redis", "rediss", "unix") or any(lacking.values()):
        found = ", ".join(name for name, asked in lacking.items() if asked) or f"{parts.scheme}://"
        raise UnsupportedUrlError(f"asyncio-redis has no {found}; use the client redis-py")
    password = parts.password.encode() if parts.password else None
    database = int(parts.path.strip("/") or 0)
    return {
        "host": parts.hostname or "localhost",
        "port": parts.port or 6379,
        "password": password,
        "db": database,
    }
