"""`python -m bench.stores`: the clients for Redis side by side; a Redis of its own on this machine."""

import argparse
import asyncio
import json
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services.gateway.asyncio_redis_store import AsyncioRedisStore
from services.gateway.redis_store import RedisStore
from services.gateway.scripted_store import ScriptedStore
from services.gateway.store import Appended, StoreError

CLIENTS: dict[str, type[RedisStore] | type[AsyncioRedisStore]] = {
    "redis-py": RedisStore,
    "asyncio-redis": AsyncioRedisStore,
}
SESSIONS = 64
_STEP = b"x" * 300


class Redis:
    """A server that can be started again."""

    def __init__(self, folder: str) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port = found.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it accepts connections."""
        binary = shutil.which("redis-server") or str(Path(sys.executable).parent / "redis-server")
        self._process = await asyncio.create_subprocess_exec(
            *(binary, "--bind", "127.0.0.1", "--port", str(self._port), "--save", "", "--dir", self._folder),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout
        while b"eady to accept" not in await self._process.stdout.readline():
            pass

    async def stop(self) -> None:
        """Ends it."""
        assert self._process
        self._process.terminate()
        await self._process.communicate()


async def _appends(store: ScriptedStore, count: int) -> float:
    """Steps a second, for sessions at the same time."""

    async def session(name: str) -> None:
        fence = await store.create(name, b"request", (), 60, "bench")
        for index in range(count // SESSIONS):
            assert await store.append(name, fence, index, _STEP) is Appended.DONE

    began = time.perf_counter()
    await asyncio.gather(*(session(f"{number}") for number in range(SESSIONS)))
    return count / (time.perf_counter() - began)


async def _recovery(store: ScriptedStore, redis: Redis) -> float:
    """Seconds from a Redis that is there again to the first command that works."""
    await redis.stop()
    for _ in range(20):
        try:
            await store.load("0")
        except StoreError:
            await asyncio.sleep(0.1)
    await redis.start()
    began = time.perf_counter()
    while True:
        try:
            await store.load("0")
        except StoreError:
            await asyncio.sleep(0.01)
        else:
            return time.perf_counter() - began


async def measure(appends: int, rounds: int) -> dict[str, Any]:
    """Every client in turn, some times."""
    found: dict[str, dict[str, list[float]]] = {
        name: {"appends_per_second": [], "recovery_seconds": []} for name in CLIENTS
    }
    for _ in range(rounds):
        for name, client in CLIENTS.items():
            with tempfile.TemporaryDirectory() as folder:
                redis = Redis(folder)
                await redis.start()
                store = client(redis.url, 60)
                found[name]["appends_per_second"].append(await _appends(store, appends))
                found[name]["recovery_seconds"].append(await _recovery(store, redis))
                await store.close()
                await redis.stop()
    return {"appends": appends, "clients": found}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--appends", type=int, default=6400)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    report = asyncio.run(measure(arguments.appends, arguments.rounds))
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
