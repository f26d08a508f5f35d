"""Sessions in Redis, through redis-py's asyncio client."""

import asyncio
import os
import socket
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from services.gateway.redis_scripts import ALL
from services.gateway.scripted_store import Argument, ScriptedStore
from services.gateway.store import StoreError


class RedisStore(ScriptedStore):
    """A `Store`.

    Args:
        url: `redis://`, `rediss://` or `unix://`, with a user and a password where there are any.
        ttl_seconds: see ScriptedStore.
        timeout_seconds: how long one command may take; Redis away must hang no request.
    """

    def __init__(self, url: str, ttl_seconds: int, timeout_seconds: float = 1.0) -> None:
        super().__init__(ttl_seconds)
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            # Who finds none free waits for one, as long as for a reply.
            max_connections=64,
            timeout=timeout_seconds,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            # By which Redis' lists and logs of its clients tell gateways apart.
            client_name=f"dreamr-{socket.gethostname()}-{os.getpid()}",
            # A pooled connection that a restarted Redis has closed is replaced once; every script may be
            # repeated. What is slow is not tried again: a request waits for it.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._redis: Any = redis.asyncio.Redis.from_pool(pool)
        self._scripts = {script: self._redis.register_script(script) for script in ALL}

    async def run(self, script: str, keys: list[str], arguments: list[Argument]) -> bytes | int:
        """See ScriptedStore."""
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        try:
            found: bytes | int = await self._scripts[script](keys=keys, args=arguments)
        except (RedisError, OSError, ValueError) as error:
            raise StoreError(f"redis: {error}") from error
        if task.cancelling() > cancelled:
            # redis-py (8.1) swallows a cancellation that comes while it takes a connection.
            raise asyncio.CancelledError
        return found

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()
