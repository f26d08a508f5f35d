"""What a session needs of the call that asks for it, through whichever front."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.common.metadata import Metadata


class Call(Protocol):
    """The part of `grpc.aio.ServicerContext` that is used."""

    def invocation_metadata(self) -> Metadata | None:
        """What the caller shows, names in lower case."""

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...], /) -> None:
        """What is told behind all messages."""

    async def write(self, message: Any, /) -> None:
        """Sends a message; returns when there is room for the next."""


@dataclass(slots=True)
class LocalCall:
    """A call from within the gateway's process.

    Attributes:
        metadata: names in lower case.
        deadline: the event loop's time.
        send: gets each message.
        trailing: what was told behind them.
    """

    metadata: list[tuple[str, str | bytes]]
    deadline: float
    send: Callable[[Any], Awaitable[None]]
    trailing: dict[str, str] = field(default_factory=dict)

    def invocation_metadata(self) -> Metadata:
        """See Call."""
        return self.metadata

    def time_remaining(self) -> float:
        """See Call."""
        return self.deadline - asyncio.get_running_loop().time()

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...], /) -> None:
        """See Call."""
        self.trailing = dict(metadata)

    async def write(self, message: Any, /) -> None:
        """See Call."""
        await self.send(message)
