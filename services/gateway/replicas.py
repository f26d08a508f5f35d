"""One part's replicas: a channel each, and an order of preference for each session."""

import hashlib
from collections.abc import Callable
from typing import Generic, TypeVar

import grpc

from services.common.channel import open_channel

Stub = TypeVar("Stub")


class Replicas(Generic[Stub]):
    """Replicas of one service.

    Args:
        addresses: `HOST:PORT`, with commas between.
        make_stub: makes a stub from a channel.
    """

    def __init__(self, addresses: str, make_stub: Callable[[grpc.aio.Channel], Stub]) -> None:
        self.channels = {address: open_channel(address) for address in addresses.split(",")}
        self._stubs = {address: make_stub(channel) for address, channel in self.channels.items()}

    def order(self, session_id: str) -> list[Stub]:
        """Rendezvous hashing: a session keeps its replica, whose cache is warm, as others come and go."""

        def weight(address: str) -> bytes:
            return hashlib.blake2b(f"{session_id}|{address}".encode(), digest_size=8).digest()

        return [self._stubs[address] for address in sorted(self._stubs, key=weight)]

    async def close(self) -> None:
        """Closes every channel."""
        for channel in self.channels.values():
            await channel.close()
