"""The scheduler: one thread that admits, prefills and decodes all requests of a model by iterations.

An iteration first computes what scores need (one token with log-probabilities: someone waits for a
verdict), then pieces of other prompts, all within a budget of tokens, then one decode step for every
active request. Before each forward the engine looks whether the request was cancelled, so that a
cancelled request costs at most the forward that is under way. Images are decoded and processed in another
thread, since that may take longer than many iterations.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from .computes import Computes, Encodes
from .config import HostSettings, ModelSettings
from .errors import CancelledRequestError, InvalidRequestError, OverloadedError, RequestError
from .request import Request, Sink
from .sequence import Sequence

# How often counts are passed on at most: each time costs several calls across processes.
REPORT_SECONDS = 0.05
# Cancellation of requests that wait costs no forward: a few are looked at in each iteration, in turn.
WAITING_CHECKS = 16

log = logging.getLogger(__name__)


@dataclass(slots=True)
class EngineCounts:
    """What the engine is doing (requests now) and has done (tokens in all, cancelled requests' too)."""

    active: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    last_token_time: float = 0.0  # Unix time, seconds
    cancelled: int = 0
    failed: int = 0


class Engine:
    """Serves requests with one runner.

    `submit` may be called from any thread; all else happens in the engine's own.
    """

    def __init__(
        self,
        runner: Computes,
        encoder: Encodes,
        settings: ModelSettings,
        host: HostSettings,
        report: Callable[[EngineCounts], None],
    ) -> None:
        self._runner = runner
        self._encoder = encoder
        self._settings = settings
        self._max_queue = host.max_queue_size
        self._report = report
        self._reported_at = 0.0
        self._dirty = False
        self.counts = EngineCounts()
        self._wake = threading.Condition()
        self._inbox: deque[Sequence] = deque()
        self._stopping = False
        self._images = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._encoding: set[Sequence] = set()
        self._waiting: deque[Sequence] = deque()
        self._cursor = 0
        self._scores: list[Sequence] = []
        self._running: list[Sequence] = []
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Fail what is under way and end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout)
        self._images.shutdown(wait=False, cancel_futures=True)

    def submit(self, request: Request, sink: Sink) -> None:
        """Queue a request; raises OverloadedError when `max_queue_size` are waiting."""
        sequence = Sequence(request, sink)
        with self._wake:
            if self._stopping:
                raise OverloadedError("the model is being unloaded")
            queued = len(self._inbox) + len(self._encoding) + len(self._waiting) + len(self._scores)
            if queued >= self._max_queue + self._free_slots():
                raise OverloadedError(f"the queue is full: {self._max_queue} requests wait (MAX_QUEUE_SIZE)")
            self._inbox.append(sequence)
            self._wake.notify()

    def _free_slots(self) -> int:
        return max(0, self._settings.max_num_seqs - len(self._running))

    def _run(self) -> None:
        # Inference mode for the whole thread: entering it for every forward would cost as much as a small
        # operation.
        with torch.inference_mode():
            while True:
                arrived, stopping = self._next_arrivals()
                if stopping:
                    self._fail_all(arrived, OverloadedError("the model is being unloaded"))
                    return
                try:
                    self._iterate(arrived)
                except Exception as error:
                    log.exception("the engine broke; failing all its requests")
                    self._fail_all(arrived, error)

    def _next_arrivals(self) -> tuple[list[Sequence], bool]:
        """What has arrived; sleeps while there is nothing to do, after a last report of the state of rest."""
        with self._wake:
            while not (self._inbox or self._waiting or self._scores or self._running or self._stopping):
                due = self._report_due()
                if due is not None and due <= 0:
                    self._wake.release()
                    try:
                        self._note()
                    finally:
                        self._wake.acquire()
                else:
                    self._wake.wait(due)
            arrived = list(self._inbox)
            self._inbox.clear()
            return arrived, self._stopping

    def _iterate(self, arrived: Iterable[Sequence]) -> None:
        self._runner.begin_iteration()
        for sequence in arrived:
            self._admit(sequence)
        self._drop_cancelled_waiting()
        while self._waiting and len(self._running) < self._settings.max_num_seqs:
            self._running.append(self._waiting.popleft())
        budget = self._settings.max_num_batched_tokens
        budget = self._prefill_all(self._scores, budget)
        budget = self._prefill_all(self._running, budget)
        self._decode_all(
            [found for found in self._running if found.prefilled and found.finish_reason is None]
        )
        self._scores = [sequence for sequence in self._scores if sequence.finish_reason is None]
        self._running = [sequence for sequence in self._running if sequence.finish_reason is None]
        self._note()

    def _admit(self, sequence: Sequence) -> None:
        """Puts an arrival where it belongs; one whose images must be processed arrives a second time."""
        request, encoded = sequence.request, sequence in self._encoding
        self._encoding.discard(sequence)
        if sequence.finish_reason is not None:
            return
        if sequence.failure:
            self._end(sequence, sequence.failure)
        elif not encoded and not self._encoder.is_quick(request.text, request.images):
            self._encoding.add(sequence)
            self._images.submit(self._encode, sequence)
        else:
            (self._scores if request.params.is_scoring else self._waiting).append(sequence)

    def _encode(self, sequence: Sequence) -> None:
        """Makes a prompt with images; runs in the images' thread."""
        try:
            sequence.prompt = self._encoder.encode(sequence.request.text, sequence.request.images)
        except Exception as error:  # noqa: BLE001 - the engine tells the caller
            sequence.failure = error
        with self._wake:
            self._inbox.append(sequence)
            self._wake.notify()

    def _drop_cancelled_waiting(self) -> None:
        for _ in range(min(len(self._waiting), WAITING_CHECKS)):
            self._cursor = self._cursor % len(self._waiting)
            sequence = self._waiting[self._cursor]
            if sequence.sink.cancelled():
                del self._waiting[self._cursor]
                self._end(sequence, CancelledRequestError("cancelled while waiting"))
                if not self._waiting:
                    return
            else:
                self._cursor += 1

    def _prefill_all(self, sequences: list[Sequence], budget: int) -> int:
        for sequence in sequences:
            while budget > 0 and not sequence.prefilled and sequence.finish_reason is None:
                budget -= self._guard(sequence, partial(self._prefill, budget=budget))
        return budget

    def _guard(self, sequence: Sequence, work: Callable[[Sequence], int]) -> int:
        """Do some work for one sequence; whatever goes wrong ends that sequence alone."""
        try:
            if sequence.sink.cancelled():
                raise CancelledRequestError("cancelled")
            return work(sequence)
        except RequestError as error:
            self._end(sequence, error)
        except Exception as error:
            log.exception("a request failed in the engine")
            self._end(sequence, error)
        return 0

    def _prefill(self, sequence: Sequence, budget: int) -> int:
        state = sequence.state
        if state is None:
            request = sequence.request
            prompt = sequence.prompt or self._encoder.encode(request.text, request.images)
            if len(prompt.ids) >= self._runner.max_model_len:
                raise InvalidRequestError(
                    f"text_input: {len(prompt.ids)} tokens leave no room for an answer within max_model_len "
                    f"{self._runner.max_model_len}"
                )
            state = sequence.open(self._runner, prompt)
        count, logits = self._runner.prefill(state, budget)
        self.counts.prompt_tokens += count
        if logits is not None:
            sequence.prefilled = True
            # Others that share the prompt need not wait for this one's end. A score ends at once and shares
            # then.
            if sequence.limit > 1:
                self._runner.share(state, state.prompt.key)
            self._take(sequence, logits)
        return count

    def _decode_all(self, sequences: list[Sequence]) -> None:
        """One step for all of `sequences` that were not cancelled; a failed step fails them all."""
        going = []
        for sequence in sequences:
            if sequence.sink.cancelled():
                self._end(sequence, CancelledRequestError("cancelled"))
            elif sequence.state is not None:
                going.append((sequence, sequence.state))
        if not going:
            return
        try:
            logits = self._runner.decode(
                [state for _, state in going], [sequence.tokens[-1] for sequence, _ in going]
            )
        except Exception as error:
            log.exception("a decode step failed")
            for sequence, _ in going:
                self._end(sequence, error)
            return
        for (sequence, _), row in zip(going, logits, strict=True):
            try:
                if isinstance(row, Exception):
                    raise row
                self._take(sequence, row)
            except Exception as error:
                log.exception("a request failed in the engine")
                self._end(sequence, error)

    def _take(self, sequence: Sequence, logits: torch.Tensor) -> None:
        sequence.take(self._runner, logits)
        self.counts.generated_tokens += 1
        self.counts.last_token_time = time.time()
        if sequence.finish_reason is not None:
            self._release(sequence)
        if sequence.due(self._settings.stream_interval):
            sequence.sink.send(sequence.output())

    def _release(self, sequence: Sequence) -> None:
        """Give the sequence's keys and values to the store."""
        state, sequence.state = sequence.state, None
        if state is None:
            return
        self._runner.close(state)
        if state.length > len(state.prompt.ids):
            self._runner.share(
                state, np.concatenate([state.prompt.key, np.array(sequence.tokens, dtype=np.int64)])
            )
        else:
            self._runner.share(state, state.prompt.key)

    def _end(self, sequence: Sequence, error: Exception) -> None:
        sequence.finish_reason = "error"
        if isinstance(error, CancelledRequestError):
            self.counts.cancelled += 1
            with contextlib.suppress(Exception):  # at worst nothing is shared; the caller must be told
                self._release(sequence)
        else:
            # What a failed forward has left behind is not to be trusted.
            self.counts.failed += 1
            sequence.state = None
        with contextlib.suppress(Exception):  # the caller may be gone; there is nobody else to tell
            sequence.sink.fail(error)

    def _fail_all(self, arrived: Iterable[Sequence], error: Exception) -> None:
        everyone = {*arrived, *self._encoding, *self._scores, *self._running, *self._waiting}
        self._scores, self._running = [], []
        self._waiting.clear()
        for sequence in everyone:
            if sequence.finish_reason is None:
                self._end(sequence, error)
        with contextlib.suppress(Exception):
            self._note()

    def _report_due(self) -> float | None:
        """Seconds until something new is to be reported; None when all is."""
        return None if not self._dirty else self._reported_at + REPORT_SECONDS - time.monotonic()

    def _note(self) -> None:
        """Report the counts, unless that was done a moment ago."""
        self._dirty = True
        now = time.monotonic()
        if now - self._reported_at >= REPORT_SECONDS:
            self._dirty = False
            self._reported_at = now
            self.counts.active = len(self._scores) + len(self._running)
            self.counts.waiting = len(self._waiting) + len(self._encoding)
            try:
                self._report(self.counts)
            except Exception:
                log.exception("the counts could not be reported")
