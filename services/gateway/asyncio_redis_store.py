"""Sessions in Redis, through asyncio-redis: for those who have it already. It is not maintained any more.

What it lacks is refused when the gateway starts: TLS, users (ACL), sockets, Sentinel, Cluster. What it does
otherwise than it should: connecting to a server that is down retries for ever, with growing pauses, so
connections are made here, when they are needed and within a command's deadline; a script that a restarted
Redis has forgotten is reported as killed, so it is loaded once more; a list of strings from a script is not
readable at all (see `redis_scripts.LOAD`).
"""

import asyncio
from typing import Any

import asyncio_redis
from asyncio_redis.encoders import BytesEncoder

from services.gateway.redis_url import Layout, RedisUrl, RedisUrlError
from services.gateway.scripted_store import Argument, ScriptedStore
from services.gateway.store import StoreError

_CONNECTIONS = 4
"""Commands of many callers share one; more than one since a large image holds others up."""


class AsyncioRedisStore(ScriptedStore):
    """A `Store`.

    Args:
        url: `redis://[:PASSWORD@]HOST[:PORT][/DATABASE]`.
        ttl_seconds: see ScriptedStore.
        timeout_seconds: how long one command may take, connecting included.

    Raises:
        RedisUrlError: the URL cannot be used, or needs what the client has not.
    """

    def __init__(self, url: str, ttl_seconds: int, timeout_seconds: float = 1.0) -> None:
        super().__init__(ttl_seconds)
        self._address = address_of(RedisUrl.parse(url))
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
                try:
                    return await self._evaluate(script, names, values)
                except (asyncio_redis.NotConnectedError, asyncio_redis.ScriptKilledError):
                    # Redis was started anew: connections are lost, scripts forgotten. All may be repeated.
                    self._hashes.clear()
                    return await self._evaluate(script, names, values)
        except TimeoutError:
            raise StoreError("redis: no answer in time") from None
        except (asyncio_redis.Error, asyncio_redis.ErrorReply, OSError) as error:
            raise StoreError(f"redis: {error or type(error).__name__}") from None

    async def close(self) -> None:
        """See Store."""
        if self._pool is not None:
            self._pool.close()

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._pool is None or not self._pool.connections_connected:
                await self.close()
                self._pool = await asyncio_redis.Pool.create(
                    **self._address, encoder=BytesEncoder(), poolsize=_CONNECTIONS, auto_reconnect=False
                )
            return self._pool

    async def _evaluate(self, script: str, keys: list[bytes], values: list[bytes]) -> bytes | int:
        pool = await self._connected()
        if script not in self._hashes:
            self._hashes[script] = await pool.script_load(script)
        reply = await pool.evalsha(self._hashes[script], keys, values)
        found: bytes | int = await reply.return_value()
        return found


def address_of(url: RedisUrl) -> dict[str, Any]:
    """Where asyncio-redis is to connect.

    Raises:
        RedisUrlError: names what it lacks.
    """
    options = dict(url.options)
    password, database = options.pop("password", ""), options.pop("db", 0)
    lacking = {
        "Sentinel": url.layout is Layout.SENTINEL,
        "Cluster": url.layout is Layout.CLUSTER,
        "TLS": url.tls,
        "sockets": "unix_socket_path" in options,
        "users (ACL)": "username" in options,
        "options in the URL": bool(options),
    }
    if found := [name for name, asked in lacking.items() if asked]:
        raise RedisUrlError(f"asyncio-redis has no {found[0]}; use the client redis-py")
    host, port = url.hosts[0]
    return {"host": host, "port": port, "password": password.encode() or None, "db": database}
