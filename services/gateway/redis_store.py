"""Sessions in Redis, through redis-py's asyncio client: one server, one behind Sentinels, or a cluster."""

import asyncio
import os
import socket
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError

from services.gateway.redis_scripts import ALL
from services.gateway.redis_url import Layout, RedisUrl
from services.gateway.scripted_store import Argument, ScriptedStore
from services.gateway.store import StoreError

_CONNECTIONS = 16
"""Who finds none free waits for one. Many would not be faster, and with TLS each new one holds the event loop
up for tens of milliseconds: redis-py reads certificates anew, so that they can be renewed."""


class RedisStore(ScriptedStore):
    """A `Store`.

    Args:
        url: see `redis_url`.
        ttl_seconds: see ScriptedStore.
        timeout_seconds: how long one command may take, connecting and finding the master included; Redis away
            must hang no request.

    Raises:
        RedisUrlError: the URL cannot be used.
    """

    def __init__(self, url: str, ttl_seconds: int, timeout_seconds: float = 1.0) -> None:
        super().__init__(ttl_seconds)
        self._url = RedisUrl.parse(url)
        self._timeout_seconds = timeout_seconds
        self._sentinel: Any = None
        self._redis: Any = self._connect()
        self._places = asyncio.Semaphore(_CONNECTIONS)
        self._scripts = {script: self._redis.register_script(script) for script in ALL}

    async def run(self, script: str, keys: list[str], arguments: list[Argument]) -> bytes | int:
        """See ScriptedStore."""
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        try:
            async with asyncio.timeout(self._timeout_seconds), self._places:
                found: bytes | int = await self._scripts[script](keys=keys, args=arguments)
        except TimeoutError:
            raise StoreError("redis: no answer in time") from None
        except (RedisError, RedisClusterException, OSError, ValueError) as error:
            # Without its cause, which may say more than is for everybody.
            raise StoreError(self._url.scrub(f"redis: {error or type(error).__name__}")) from None
        if task.cancelling() > cancelled:
            # redis-py (8.1) now and then swallows a cancellation.
            raise asyncio.CancelledError
        return found

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()
        if self._sentinel:
            await self._sentinel.aclose()

    def _connect(self) -> Any:
        """A client; it connects when it is first used."""
        url, seconds = self._url, self._timeout_seconds
        # A pooled connection that a restarted Redis has closed is replaced once; every script may be
        # repeated. What is slow is not tried again: a request waits for it.
        once = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        # By which Redis' lists and logs of its clients tell gateways apart.
        ours = {"client_name": f"dreamr-{socket.gethostname()}-{os.getpid()}"}
        common = ours | url.options | {"ssl": url.tls, "max_connections": _CONNECTIONS, "retry": once}
        match url.layout:
            case Layout.SERVER:
                for host, port in url.hosts:
                    common |= {"host": host, "port": port}
                return Redis(**common, **_timeouts(seconds))
            case Layout.SENTINEL:
                # One that does not answer leaves time for the others, and for the master.
                asking = _timeouts(seconds / (len(url.hosts) + 1))
                asking |= {**url.sentinel_options, "ssl": url.tls, "retry": Retry(NoBackoff(), 0)}
                self._sentinel = Sentinel(url.hosts, sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
                return self._sentinel.master_for(url.service, **common, **_timeouts(seconds))
            case Layout.CLUSTER:
                # A node that does not answer leaves time to ask another one where its slots have gone.
                nodes = [ClusterNode(host, port) for host, port in url.hosts]
                return RedisCluster(startup_nodes=nodes, **common, **_timeouts(seconds / 2))


def _timeouts(seconds: float) -> dict[str, Any]:
    return {"socket_timeout": seconds, "socket_connect_timeout": seconds}
