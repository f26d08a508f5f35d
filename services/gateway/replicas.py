"""One part's replicas: which there are, and an order of preference for each call."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from fractions import Fraction
from math import ceil
from typing import Any, Generic, TypeVar

import grpc
import structlog

from dreamr.errors import TlsError
from dreamr.tls import Tls
from services.common.channel import open_channel
from services.common.errors import UnavailableError
from services.gateway import metrics
from services.gateway.replica import Replica
from services.gateway.resolver import Lookup, Resolver, look_up

Stub = TypeVar("Stub")

log = structlog.get_logger()

_BOUND = Fraction(5, 4)
"""Calls under way at a replica, over the mean of all: with more it is crowded."""
_FREE = 4
"""With fewer calls than this it never is: one session alone has as many."""
_LEAST_SECONDS = 1.0
"""Between two resolutions: replicas that keep failing must not make a storm of queries."""


class Replicas(Generic[Stub]):
    """Replicas of one service. Each is watched; names among the addresses are resolved again and again.

    Must be made where an event loop runs, and closed.

    Args:
        addresses: with commas between; see `Resolver`.
        make_stub: makes a stub from a channel.
        role: of the service, and
        tls: what its replicas are verified by; see `open_channel`.
        resolve_seconds: how often names are resolved anew, besides at once when a replica fails.
        lookup: finds a name's addresses.
    """

    def __init__(
        self,
        addresses: str,
        make_stub: Callable[[grpc.aio.Channel], Stub],
        role: str = "",
        tls: Tls | None = None,
        *,
        resolve_seconds: float = 5.0,
        lookup: Lookup = look_up,
    ) -> None:
        self._make_stub = make_stub
        self._role = role
        self._tls = tls
        self._resolver = Resolver(addresses, lookup)
        self._resolve_seconds = resolve_seconds
        self._replicas: dict[str, Replica[Stub]] = {}
        self._failed = asyncio.Event()
        # The resolution, and replicas that retire.
        self._tasks: set[asyncio.Task[None]] = set()
        self._update()
        if self._resolver.changes:
            self._spawn(self._keep_resolved())
        metrics.REPLICAS.labels(role, "known").set_function(lambda: len(self._replicas))
        metrics.REPLICAS.labels(role, "ready").set_function(lambda: len(self.ready))

    @property
    def channels(self) -> list[grpc.aio.Channel]:
        """One for each replica."""
        return [replica.channel for replica in self._replicas.values()]

    @property
    def ready(self) -> list[Replica[Stub]]:
        """Those that nothing speaks against."""
        return [replica for replica in list(self._replicas.values()) if replica.ready]

    def order(self, session_id: str, lane: int = 0) -> list[Replica[Stub]]:
        """Whom a call that begins now asks first, second and so on.

        Rendezvous hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv 1608.01350): a
        session keeps its replica, whose cache is warm, as others come and go and while it is not crowded.
        Those that cannot be called come last, and none is left out: where all have failed, all are asked.

        Args:
            lane: of the calls of a session at the same time; each lane begins at another replica.
        """

        def weight(replica: Replica[Stub]) -> bytes:
            return hashlib.blake2b(f"{session_id}|{replica.address}".encode(), digest_size=8).digest()

        found = sorted(self._replicas.values(), key=weight)
        if not found:
            return []
        first = lane % len(found)
        now = time.monotonic()
        best = min(replica.standing(now) for replica in found)
        ready = [replica for replica in found if replica.standing(now) == best]
        # With the new call counted in; at least one of those that are ready is below this.
        most = max(_FREE, ceil(_BOUND * (sum(replica.calls for replica in ready) + 1) / len(ready)))
        return sorted(
            found[first:] + found[:first],
            key=lambda replica: (replica.standing(now), replica.calls >= most),
        )

    def choose(self, session_id: str, lane: int, tried: set[Replica[Stub]]) -> Replica[Stub]:
        """Whom a call asks now that was tried at some already; once all were, they are tried anew.

        Raises:
            UnavailableError: no replica is known.
        """
        order = self.order(session_id, lane)
        if not order:
            raise UnavailableError(f"{self._role}: no address is known")
        if tried.issuperset(order):
            tried.clear()
        found = next(replica for replica in order if replica not in tried)
        tried.add(found)
        return found

    def check(self) -> None:
        """Raises UnavailableError while no replica says that it serves; names what each says."""
        if all(replica.problem != "" for replica in self._replicas.values()):
            problems = (
                f"{name}: {'no word yet' if replica.problem is None else replica.problem}"
                for name, replica in self._replicas.items()
            )
            raise UnavailableError(f"{self._role}: {'; '.join(problems) or 'no address is known'}")

    async def close(self) -> None:
        """Closes every channel."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.gather(*(replica.close() for replica in self._replicas.values()))

    async def _keep_resolved(self) -> None:
        while True:
            self._failed.clear()
            await self._resolver.resolve()
            try:
                self._update()
            except TlsError as error:  # files may be changing just now
                log.warning("replica not added", part=self._role, reason=str(error))
            await asyncio.sleep(min(_LEAST_SECONDS, self._resolve_seconds))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._resolve_seconds - _LEAST_SECONDS):
                    await self._failed.wait()

    def _update(self) -> None:
        """Replicas for the addresses that are known now."""
        addresses = self._resolver.addresses()
        for address in self._replicas.keys() - set(addresses):
            log.info("replica gone", part=self._role, address=address)
            self._spawn(self._replicas.pop(address).retire())
        for address in addresses:
            if address not in self._replicas:
                self._add(address)

    def _add(self, address: str) -> None:
        channel = open_channel(address, self._role, self._tls)
        stub = self._make_stub(channel)
        replica = Replica(self._role, address, channel, stub, self._replicas, self._failed.set)
        replica.watch()
        self._replicas[address] = replica

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
