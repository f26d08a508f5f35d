"""Carries out the state machine's commands: one TaskGroup a session, everything awaited or cancelled.

The driver knows asyncio and time, but neither gRPC nor Redis: the cluster is `Parts`, and what happens is
told to an `outbox`, in order.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from dreamr.v1 import gateway_pb2
from services.common import tracing
from services.common.errors import (
    InvalidRequestError,
    LateError,
    OverloadedError,
    ServiceError,
    UnavailableError,
)
from services.gateway import convert, metrics
from services.gateway.fpsr import Machine
from services.gateway.governs import Governs, Ungoverned
from services.gateway.messages import (
    Aborted,
    Answered,
    Author,
    CallFailed,
    Command,
    CommitStep,
    Drafted,
    DraftEnded,
    Event,
    Fail,
    Failure,
    Finish,
    Governed,
    GraceOver,
    Judged,
    Reason,
    RivalDone,
    RivalEnded,
    Start,
    StartAnswer,
    StartDraft,
    StartGrace,
    StartRival,
    StartVerdict,
    Stop,
    Verdict,
)
from services.gateway.parts import Parts, Progress
from services.gateway.speculation import Speculation
from services.gateway.totals import ModelTotals, Totals

Outbox = Callable[[gateway_pb2.ReasonResponse], Coroutine[Any, Any, None]]
"""Takes what happens, in order; it may wait, but not for the machine."""

_PARTS = {
    StartDraft: gateway_pb2.PART_DRAFT,
    StartRival: gateway_pb2.PART_RIVAL,
    StartVerdict: gateway_pb2.PART_VERDICT,
    StartAnswer: gateway_pb2.PART_ANSWER,
}
_WRITTEN = "dreamr.steps"
_DOWN = Failure.UNAVAILABLE
_FAILURES = {InvalidRequestError: Failure.REFUSED, OverloadedError: Failure.OVERLOADED}
# Stopped calls may still speak once each; more than a window's worth of events never waits.
_EVENTS = 1024


@dataclass(slots=True)
class _Work:
    """A call under way: what it is, since when, and what it has cost."""

    start: Start
    task: asyncio.Task[None]
    began: float
    tokens: int = 0
    written_tokens: int = 0
    committed_tokens: int = 0
    over: bool = False
    stopped: bool = False
    # Per step it wrote: when the work on it began, and when its text was complete.
    spans: list[tuple[float, float]] = field(default_factory=list)


def part_of(start: Start) -> str:
    """What metrics and traces call a call that has a part."""
    return gateway_pb2.Part.Name(_PARTS[type(start)]).removeprefix("PART_").lower()


def _span(start: Start) -> tracing.Span:
    """What a trace shows of a call: its place in the reasoning, and nothing of what is said."""
    if isinstance(start, StartGrace) or not tracing.on():
        return tracing.NONE
    index = len(start.steps) if isinstance(start, StartAnswer) else start.index
    lane = start.lane if isinstance(start, StartDraft) else 0
    return tracing.span(
        part_of(start), {"dreamr.call": start.call, "dreamr.index": index, "dreamr.lane": lane}
    )


class Driver:
    """Runs one session.

    Args:
        machine: not yet started.
        parts: the cluster, as this session sees it.
        outbox: told `activity` (only with `with_activity`), each `commit` and at last `finished`.
        seconds: how long the session may take.
        governor: told of every call, and asked after each commit how far to speculate.
        record: told of each event of a live call, with what began the call.
        clock: seconds for timings; uvloop's own time has milliseconds only.
    """

    def __init__(
        self,
        machine: Machine,
        parts: Parts,
        outbox: Outbox,
        *,
        seconds: float,
        with_activity: bool = False,
        governor: Governs | None = None,
        record: Callable[[Start, Event], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.totals = Totals()
        self._machine = machine
        self._parts = parts
        self._outbox = outbox
        self._seconds = seconds
        self._with_activity = with_activity
        self._governor = governor or Ungoverned()
        self._record = record
        self._clock = clock
        # With the time at which each happened: it may wait here while a slow client is sent to.
        self._events: asyncio.Queue[tuple[Event, float]] = asyncio.Queue(_EVENTS)
        self._works: dict[int, _Work] = {}
        self._began = 0.0
        self._version = 0
        self._failures: dict[int, ServiceError] = {}
        self._aborted: ServiceError | None = None

    def abort(self, why: ServiceError) -> None:
        """Ends the session as soon as the driver comes to it; `run` raises `why`."""
        self._aborted = self._aborted or why
        # Where there is no room, something wakes the driver anyway.
        with suppress(asyncio.QueueFull):
            self._events.put_nowait((Aborted(str(why)), self._now()))

    async def run(self) -> None:
        """Runs to the end.

        Raises:
            UnavailableError: the target failed; what is committed is kept.
            OverloadedError: the target had no room until the end.
            LateError: the session took longer than it may.
            InvalidRequestError: the target refused the request, such as a prompt longer than its context.
            ServiceError: what `abort` was told.
        """
        deadline = asyncio.get_running_loop().time() + self._seconds
        self._began = self._clock()
        async with asyncio.TaskGroup() as group:
            try:
                end = await self._obey(self._machine.start(), group)
                while end is None:
                    try:
                        async with asyncio.timeout_at(deadline):
                            event, at = await self._events.get()
                    except TimeoutError:
                        event, at = Aborted("deadline"), self._now()
                    if self._aborted:
                        event = Aborted(str(self._aborted))
                    end = await self._obey(await self._note(event, at), group)
                for call in list(self._works):
                    await self._stop(call)
            finally:
                # Of a client that has left: what it has cost is booked all the same.
                at = self._now()
                for work in self._works.values():
                    if not work.over:
                        self._cancel(work, at)
        await self._conclude(end)

    # --- commands ---------------------------------------------------------------------------------

    async def _obey(self, commands: list[Command], group: asyncio.TaskGroup) -> Finish | Fail | None:
        waiting = deque(commands)
        while waiting:
            match waiting.popleft():
                case Stop(call):
                    await self._stop(call)
                case CommitStep() as commit:
                    level = await self._commit(commit)
                    waiting.extend(self._machine.handle(Governed(level)))
                case Finish() | Fail() as end:
                    return end
                case start:
                    # Behind a commit the governor may have stopped it before it began.
                    if (stop := Stop(start.call)) in waiting:
                        waiting.remove(stop)
                    else:
                        await self._start(start, group)
        return None

    async def _start(self, start: Start, group: asyncio.TaskGroup) -> None:
        task = group.create_task(self._guard(start), name=f"{type(start).__name__}-{start.call}")
        at = self._now()
        self._works[start.call] = _Work(start, task, at)
        if account := self._account(start):
            account.calls += 1
        self._governor.began(start, self._began + at)
        await self._tell(start, gateway_pb2.PHASE_STARTED, at)

    async def _stop(self, call: int) -> None:
        work = self._works.get(call)
        if work is None or work.over:
            return
        at = self._now()
        self._cancel(work, at)
        await self._tell(work.start, gateway_pb2.PHASE_CANCELLED, at)

    async def _commit(self, command: CommitStep) -> Speculation:
        """Tells a commit; returns how far to speculate behind it."""
        work = self._works[command.call]
        offset = command.index - work.start.index if isinstance(work.start, StartDraft | StartRival) else 0
        began, written = work.spans[offset]
        if command.author is Author.DRAFT:
            self.totals.accepted += 1
            self.totals.draft.committed_tokens += command.step.tokens
        else:
            self.totals.steps_by_target += 1
            self.totals.target.committed_tokens += command.step.tokens
            self.totals.rejected += command.verdict is not None
        work.committed_tokens += command.step.tokens
        if work.stopped and (account := self._account(work.start)):
            account.cancelled_tokens -= command.step.tokens
        self._governor.committed(command.author, command.step.tokens, command.verdict)
        level = self._governor.level()
        commit = gateway_pb2.Commit(
            index=command.index,
            step=convert.step_to(command.step),
            author=convert.AUTHORS[command.author],
            verdict=convert.verdict_to(command.verdict) if command.verdict else None,
            timings=gateway_pb2.CommitTimings(started=began, written=written, committed=self._now()),
            speculation=convert.SPECULATIONS[level],
            draft_version=self._version,
        )
        await self._outbox(gateway_pb2.ReasonResponse(commit=commit))
        return level

    async def _conclude(self, end: Finish | Fail) -> None:
        if isinstance(end, Fail):
            if end.call is None:
                raise self._aborted or LateError(end.why)
            # What the part said decides how the caller hears of it.
            raise type(self._failures.get(end.call, UnavailableError()))(end.why)
        reason = gateway_pb2.FINISH_REASON_LENGTH if end.length else gateway_pb2.FINISH_REASON_STOP
        finished = gateway_pb2.Finished(
            answer=end.answer,
            reason=reason,
            totals=self.totals.message(),
            seconds=self._now(),
            degraded=self._machine.degraded,
        )
        await self._outbox(gateway_pb2.ReasonResponse(finished=finished))

    # --- events -----------------------------------------------------------------------------------

    async def _note(self, event: Event, at: float) -> list[Command]:
        """Accounts for an event of a live call that happened `at`, then lets the machine have it."""
        work = None if isinstance(event, Aborted | Governed) else self._works.get(event.call)
        if work is None or work.over:
            return self._machine.handle(event)
        if self._record:
            self._record(work.start, event)
        match event:
            case Drafted(_, step) | RivalDone(_, step):
                began = work.spans[-1][1] if work.spans else work.began
                work.spans.append((began, at))
                # Progress may have told these tokens already.
                work.written_tokens += step.tokens
                work.tokens = max(work.tokens, work.written_tokens)
                if isinstance(event, Drafted):
                    self.totals.drafted += 1
                    self._version = step.version
                    self._governor.drafted(at - began)
                else:
                    self._governor.progressed(work.start, work.written_tokens, self._began + at)
                await self._tell(
                    work.start,
                    gateway_pb2.PHASE_STEP,
                    at,
                    text=step.text,
                    closes=step.closes,
                    truncated=step.truncated,
                    offset=len(work.spans) - 1,
                )
            case Judged(_, verdict):
                self._settle(work, at)
                self._governor.judged(at - work.began)
                await self._tell(work.start, gateway_pb2.PHASE_DONE, at, verdict=verdict)
            case Answered(_, text, tokens):
                work.tokens = tokens
                if account := self._account(work.start):
                    account.committed_tokens += tokens
                self._settle(work, at)
                await self._tell(work.start, gateway_pb2.PHASE_DONE, at, text=text)
            case DraftEnded() | RivalEnded():
                self._settle(work, at)
                await self._tell(work.start, gateway_pb2.PHASE_DONE, at)
            case GraceOver():
                self._settle(work, at)
            case CallFailed(_, message):
                self._settle(work, at)
                await self._tell(work.start, gateway_pb2.PHASE_FAILED, at, text=message)
        return self._machine.handle(event)

    async def _guard(self, start: Start) -> None:
        """Runs a call; whatever comes of it becomes an event."""
        began = self._now()
        try:
            with _span(start) as span:
                await self._call(start, span)
        except ServiceError as error:
            if isinstance(error, LateError) and isinstance(start, StartVerdict):
                late = Verdict(accept=False, reason=Reason.LATE, seconds=self._now() - began)
                await self._put(Judged(start.call, late))
                return
            self._failures[start.call] = error
            await self._put(CallFailed(start.call, str(error), _FAILURES.get(type(error), _DOWN)))

    async def _put(self, event: Event) -> None:
        await self._events.put((event, self._now()))

    async def _call(self, start: Start, span: tracing.Span) -> None:
        put, written = self._put, 0
        match start:
            case StartDraft(call):
                async with aclosing(self._parts.draft(start)) as steps:
                    async for step in steps:
                        await put(Drafted(call, step))
                        written += 1
                        span.set({_WRITTEN: written})
                await put(DraftEnded(call))
            case StartRival(call):
                async with aclosing(self._parts.rival(start)) as found:
                    async for item in found:
                        if isinstance(item, Progress):
                            self._works[call].tokens = max(self._works[call].tokens, item.tokens)
                            self._governor.progressed(start, item.tokens, self._clock())
                        else:
                            await put(RivalDone(call, item))
                            written += 1
                            span.set({_WRITTEN: written})
                await put(RivalEnded(call))
            case StartVerdict(call):
                began = self._now()
                verdict = await self._parts.verdict(start)
                span.set({"dreamr.accept": verdict.accept, "dreamr.reason": verdict.reason.value})
                await put(Judged(call, replace(verdict, seconds=self._now() - began)))
            case StartAnswer(call):
                answer = await self._parts.answer(start)
                await put(Answered(call, answer.text, answer.tokens, answer.truncated))
            case StartGrace(call):
                await asyncio.sleep(self._machine.policy.grace_seconds)
                await put(GraceOver(call))

    # --- bookkeeping ------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._clock() - self._began

    def _account(self, start: Start) -> ModelTotals | None:
        match start:
            case StartDraft():
                return self.totals.draft
            case StartRival():
                return self.totals.target
            case StartAnswer():
                return self.totals.draft if start.author is Author.DRAFT else self.totals.target
            case StartVerdict():
                return self.totals.verifier
            case StartGrace():
                return None

    def _cancel(self, work: _Work, at: float) -> None:
        """Stops a call that is under way, and books it as that."""
        work.task.cancel()
        work.stopped = True
        self._settle(work, at)
        if account := self._account(work.start):
            account.cancelled_calls += 1
            account.cancelled_tokens += work.tokens - work.committed_tokens
            told = metrics.CANCEL_SECONDS.labels(part_of(work.start))
            work.task.add_done_callback(lambda _: told.observe(max(0.0, self._now() - at)))

    def _settle(self, work: _Work, at: float) -> None:
        """Books a call's cost, once."""
        work.over = True
        self._governor.ended(work.start, self._began + at)
        if account := self._account(work.start):
            account.busy_seconds += at - work.began
            account.generated_tokens += work.tokens

    async def _tell(
        self,
        start: Start,
        phase: gateway_pb2.Phase,
        at: float,
        *,
        text: str = "",
        closes: bool = False,
        truncated: bool = False,
        verdict: Verdict | None = None,
        offset: int = 0,
    ) -> None:
        if not self._with_activity or isinstance(start, StartGrace):
            return
        index = len(start.steps) if isinstance(start, StartAnswer) else start.index + offset
        activity = gateway_pb2.Activity(
            call=start.call,
            part=_PARTS[type(start)],
            phase=phase,
            index=index,
            at=at,
            text=text,
            closes=closes,
            truncated=truncated,
            verdict=convert.verdict_to(verdict) if verdict else None,
        )
        await self._outbox(gateway_pb2.ReasonResponse(activity=activity))
