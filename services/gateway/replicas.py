"""One part's replicas: a channel each, and an order of preference for each call."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Generic, TypeVar

import grpc

from dreamr.tls import Tls
from services.common.channel import open_channel

Stub = TypeVar("Stub")

_BOUND = Fraction(5, 4)
"""Calls under way at a replica, over the mean of all: with more it is crowded."""
_FREE = 4
"""With fewer calls than this it never is: one session alone has as many."""
_REST_SECONDS = 2.0
"""A replica that could not be reached is asked last for so long."""


@dataclass(slots=True)
class Replica(Generic[Stub]):
    """One replica of a service.

    Attributes:
        calls: under way from this gateway.
        rests_until: it could not be reached, and is asked last until then (`time.monotonic`).
    """

    address: str
    channel: grpc.aio.Channel
    stub: Stub
    calls: int = 0
    rests_until: float = 0.0

    @contextmanager
    def call(self) -> Iterator[Stub]:
        """The stub for one call, which is counted until the block is left."""
        self.calls += 1
        try:
            yield self.stub
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self.rests_until = time.monotonic() + _REST_SECONDS
            raise
        finally:
            self.calls -= 1


class Replicas(Generic[Stub]):
    """Replicas of one service.

    Args:
        addresses: `HOST:PORT`, with commas between.
        make_stub: makes a stub from a channel.
        role: of the service, and
        tls: what its replicas are verified by; see `open_channel`.
    """

    def __init__(
        self,
        addresses: str,
        make_stub: Callable[[grpc.aio.Channel], Stub],
        role: str = "",
        tls: Tls | None = None,
    ) -> None:
        channels = {address: open_channel(address, role, tls) for address in addresses.split(",")}
        self._replicas = [Replica(name, channel, make_stub(channel)) for name, channel in channels.items()]

    @property
    def channels(self) -> list[grpc.aio.Channel]:
        """One for each replica."""
        return [replica.channel for replica in self._replicas]

    def order(self, session_id: str, lane: int = 0) -> list[Replica[Stub]]:
        """Whom a call that begins now asks first, second and so on.

        Rendezvous hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv 1608.01350): a
        session keeps its replica, whose cache is warm, as others come and go and while it is not crowded.

        Args:
            lane: of the calls of a session at the same time; each lane begins at another replica.
        """

        def weight(replica: Replica[Stub]) -> bytes:
            return hashlib.blake2b(f"{session_id}|{replica.address}".encode(), digest_size=8).digest()

        found = sorted(self._replicas, key=weight)
        first = lane % len(found)
        now = time.monotonic()
        ready = [replica for replica in found if replica.rests_until <= now] or found
        # With the new call counted in; at least one of those that are ready is below this.
        most = max(_FREE, ceil(_BOUND * (sum(replica.calls for replica in ready) + 1) / len(ready)))
        return sorted(
            found[first:] + found[:first],
            key=lambda replica: (replica.rests_until > now, replica.calls >= most),
        )

    async def close(self) -> None:
        """Closes every channel."""
        for channel in self.channels:
            await channel.close()
