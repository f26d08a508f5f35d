"""The courier: a thread that carries responses out and news of cancellation in.

A call into Triton crosses processes and takes 0.1-0.25 ms, as long as a decode step of a small model: the
engine does not wait for it. While a response of a stream waits to be carried, newer tokens join it, so the
backlog is bounded by the number of requests.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from .request import Output

# The engine asks before every forward; Triton is asked at most this often for one request.
CHECK_SECONDS = 0.003

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """The far end of one request: the calls that cross processes."""

    def deliver(self, output: Output) -> None:
        """Send a response; with a finish reason it is the last."""

    def deliver_error(self, error: Exception) -> None:
        """Send an error as the last response."""

    def is_cancelled(self) -> bool:
        """Ask whether the caller has cancelled or left."""


class Courier:
    """Runs errands one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Finish what is to be carried, then end the thread."""
        self._errands.put(None)
        self._thread.join(timeout)

    def send(self, errand: Callable[[], None]) -> None:
        """Have `errand` run."""
        self._errands.put(errand)

    def _run(self) -> None:
        while (errand := self._errands.get()) is not None:
            try:
                errand()
            except Exception:
                # The caller may be gone in the middle of it; others' responses must still go out.
                log.exception("an errand failed")


class CourierSink:
    """The engine's `Sink` for one request: hands everything to the courier and never waits."""

    __slots__ = (
        "__weakref__",
        "_cancelled",
        "_checked_at",
        "_courier",
        "_ended",
        "_lock",
        "_pending",
        "_receiver",
        "wants_cumulative_logprob",
    )

    def __init__(self, courier: Courier, receiver: Receiver, wants_cumulative_logprob: bool) -> None:
        self._courier = courier
        self._receiver = receiver
        self.wants_cumulative_logprob = wants_cumulative_logprob
        self._lock = threading.Lock()
        self._pending: Output | None = None
        self._cancelled = False
        self._checked_at = time.monotonic()
        # Only the courier's thread reads and writes this.
        self._ended = False

    def cancel(self) -> None:
        """The caller says so in a request of its own."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """What is known of cancellation; has the courier look again where that was a while ago.

        Looking is for callers that are gone: others say that they cancel.
        """
        now = time.monotonic()
        if not self._cancelled and now - self._checked_at >= CHECK_SECONDS:
            self._checked_at = now
            self._courier.send(self._check)
        return self._cancelled

    def send(self, output: Output) -> None:
        """Hand over a response; it joins one that has not left yet."""
        with self._lock:
            if self._pending is not None:
                self._pending.extend(output)
                return
            self._pending = output
        self._courier.send(self._deliver)

    def fail(self, error: Exception) -> None:
        """End the request with an error, behind what is still to be carried."""
        self._courier.send(lambda: self._deliver_error(error))

    def _check(self) -> None:
        # Asking about a request whose last response has left crashes the whole server (Triton 2.51).
        if not self._ended and self._receiver.is_cancelled():
            self._cancelled = True

    def _deliver(self) -> None:
        with self._lock:
            output, self._pending = self._pending, None
        if self._ended:
            return
        assert output is not None
        self._ended = output.finish_reason is not None
        try:
            self._receiver.deliver(output)
        except Exception as error:
            # A piece is lost, so the whole cannot be right: the caller is told, the engine stops.
            log.exception("a response could not be delivered")
            self._ended = self._cancelled = True
            self._receiver.deliver_error(error)

    def _deliver_error(self, error: Exception) -> None:
        if not self._ended:
            self._ended = True
            self._receiver.deliver_error(error)
