"""One replica of a service: its channel, its calls, its health, and for how long it is left alone."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import grpc
import structlog

from services.common import tracing
from services.gateway import metrics
from services.gateway.health_watch import watch_health

Stub = TypeVar("Stub")

log = structlog.get_logger()

_FIRST_REST, _LONGEST_REST = 1.0, 60.0
"""Seconds for which a replica that failed is asked last; doubled while it fails, as in gRPC's connection
back-off (doc/connection-backoff.md) and Envoy's outlier detection."""
_LATE = 3
"""So many calls in a row that it let wait while others answered are a failure."""


@dataclass(slots=True, eq=False)
class Replica(Generic[Stub]):
    """One replica of a service.

    Args:
        peers: all replicas of the service, this one among them.
        failed: told when it was ejected or cannot be called any more.

    Attributes:
        calls: under way from this gateway.
        problem: why it cannot be called now, by its health; empty when it can; None before it has told.
        heard: when it last answered a call (`time.monotonic`).
        rests_until: it failed, and is asked last until then.
    """

    part: str
    address: str
    channel: grpc.aio.Channel
    stub: Stub
    peers: Mapping[str, "Replica[Stub]"]
    failed: Callable[[], None]
    calls: int = 0
    problem: str | None = None
    heard: float = 0.0
    rests_until: float = 0.0
    _rest: float = _FIRST_REST
    _ejected: float = 0.0
    _late: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _watch: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begins to watch its health; `retire` and `close` end that."""
        self._watch = asyncio.create_task(
            watch_health(self.channel, self._told), name=f"health {self.address}"
        )

    def standing(self, now: float) -> tuple[bool, bool]:
        """Whether its health speaks against it, and whether it rests; the less, the better."""
        return self.problem != "", self.rests_until > now

    @property
    def ready(self) -> bool:
        """Whether nothing speaks against it."""
        return not any(self.standing(time.monotonic()))

    @contextmanager
    def call(self) -> Iterator[Stub]:
        """The stub for one call, which is counted until the block is left.

        A block that ends without an error is an answer; so is each `answered` within it.
        """
        began = time.monotonic()
        self.calls += 1
        try:
            yield self.stub
            self.answered()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._eject(began)
            elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and any(
                peer.heard >= began for peer in self.peers.values()
            ):
                self.overdue(began)
            raise
        finally:
            self.calls -= 1
            if not self.calls:
                self._idle.set()

    def span(self) -> tracing.Span:
        """The span of one call to it."""
        return tracing.span(f"call {self.part}", {"server.address": self.address}, "CLIENT")

    def answered(self) -> None:
        """It has said something to a call."""
        self.heard = time.monotonic()
        self._rest, self._late = _FIRST_REST, 0

    def overdue(self, began: float) -> None:
        """A call that began then was given up, while others of its kind were answered elsewhere."""
        if self.heard < began:
            self._late += 1
            if self._late >= _LATE:
                self._eject(began)

    async def retire(self) -> None:
        """Lets the calls under way end, then closes the channel. None may begin any more."""
        try:
            await self._stop_watching()
            while self.calls:
                self._idle.clear()
                await self._idle.wait()
        finally:
            await self.channel.close()

    async def close(self) -> None:
        """Closes the channel at once."""
        await self._stop_watching()
        await self.channel.close()

    async def _stop_watching(self) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    def _eject(self, began: float) -> None:
        # Calls that began before tell of the same failure.
        if began < self._ejected:
            return
        self._ejected = time.monotonic()
        self.rests_until = self._ejected + self._rest
        self._rest, self._late = min(2 * self._rest, _LONGEST_REST), 0
        metrics.EJECTIONS.labels(self.part).inc()
        log.info(
            "replica rests", part=self.part, address=self.address, seconds=self.rests_until - self._ejected
        )
        self.failed()

    def _told(self, problem: str) -> None:
        if problem == self.problem:
            return
        log.info("replica's health", part=self.part, address=self.address, problem=problem or "none")
        self.problem = problem
        if problem:
            self.failed()
        else:
            self.rests_until = 0.0
