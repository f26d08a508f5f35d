"""Runs sessions: puts the machine, its driver, the cluster's parts and the hold on the store together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from dreamr.v1 import common_pb2, gateway_pb2
from services.common import tracing
from services.common.errors import (
    HandedOverError,
    InvalidRequestError,
    LateError,
    ServiceError,
    SessionCancelledError,
    UnavailableError,
)
from services.gateway import convert, metrics
from services.gateway.cluster_parts import Cluster, ClusterParts
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.governor import Governor
from services.gateway.messages import Event, Start, Step
from services.gateway.metrics import Fate
from services.gateway.outbox import Note, Outbox
from services.gateway.plan import Plan
from services.gateway.prefill import Prefill
from services.gateway.recorder import Recorder
from services.gateway.sessions import Session
from services.gateway.speculation import Speculation
from services.gateway.store import Status
from services.gateway.timelines import Timelines

log = structlog.get_logger()

Send = Callable[[gateway_pb2.ReasonResponse], Awaitable[None]]

# Past its deadline a session may still send what was committed, but not for long.
LAST_WORDS_SECONDS = 1.0

# Sessions that ended while the store was away: how many are kept to be written back, and for how long each.
_MOST_LATE, _LATE_SECONDS = 256, 60.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a session is to do.

    Attributes:
        context: session id, question, images and the steps that are taken for granted.
        deadline: the event loop's time.
        committed: steps of a session that goes on.
        told: the client has heard that it was started.
        origin: of the trace that a session goes on with.
    """

    plan: Plan
    context: common_pb2.Context
    deadline: float
    committed: Sequence[Step] = ()
    told: bool = False
    origin: str = ""


class Reasoning:
    """The sessions that this gateway works on.

    Args:
        verdict_seconds: how long one verdict may take.
        timelines: of the last sessions.
        let_go_of: leaves a session that has not ended to whoever resumes it.
        recorder: None keeps nothing of what sessions say.
    """

    def __init__(
        self,
        cluster: Cluster,
        verdict_seconds: float,
        timelines: Timelines,
        let_go_of: Callable[[Session], Awaitable[None]],
        recorder: Recorder | None = None,
    ) -> None:
        self._cluster = cluster
        self._timelines = timelines
        self._let_go_of = let_go_of
        self._recorder = recorder
        self._verdict_seconds = verdict_seconds
        self._governor = Governor()
        self._drivers: dict[str, Driver] = {}
        self._sessions: set[Session] = set()
        self._late: set[asyncio.Task[bool]] = set()
        self._draining = False
        # Asked by the thread that Prometheus talks to.
        metrics.AWAY_SESSIONS.set_function(lambda: sum(bool(one.away) for one in tuple(self._sessions)))
        metrics.GOVERNOR_READY.set_function(lambda: self._governor.costs() is not None)
        metrics.GOVERNOR_ACCEPTANCE.set_function(lambda: self._governor.acceptance.value)

    def drain(self) -> None:
        """From now on durable sessions are let go of at their next commits; other gateways resume them."""
        self._draining = True

    def check_open(self) -> None:
        """Raises UnavailableError while draining."""
        if self._draining:
            raise UnavailableError("this gateway is shutting down; ask another one")

    def abort(self, session_id: str, why: ServiceError) -> bool:
        """Ends a session, if it is one of ours; tells whether it is."""
        if driver := self._drivers.get(session_id):
            driver.abort(why)
        return driver is not None

    async def run(self, session: Session, task: Task, send: Send) -> None:
        """Works on a session to its end, or until it must be let go of.

        Raises:
            ServiceError: why it has no answer.
        """
        # An answer behind a client's own steps says nothing of what is right.
        given = task.context.steps or any(step.closes for step in task.committed)
        images = [image.data for image in task.context.images]
        recording = (
            self._recorder.begin(session.id, task.context.question, images)
            if self._recorder and not given
            else None
        )
        shown = {"session.id": session.id, "dreamr.policy": task.plan.policy.name}
        with (
            tracing.span("session", shown, begins=True, origin=task.origin) as span,
            self._timelines.session(session.id, task.context.question) as note,
        ):
            self._sessions.add(session)
            try:
                finished = await self._run(session, task, send, note, recording.note if recording else None)
            finally:
                self._sessions.discard(session)
                span.set({"dreamr.steps": session.committed})
        if self._recorder and recording and finished:
            await asyncio.shield(self._recorder.end(recording, finished.answer))

    async def _run(
        self,
        session: Session,
        task: Task,
        send: Send,
        note: Note,
        record: Callable[[Start, Event], None] | None,
    ) -> gateway_pb2.Finished | None:
        plan = task.plan
        with metrics.ACTIVE.track_inprogress(), ExitStack() as governing:
            governor = governing.enter_context(self._governor.session(plan.policy))
            outbox = Outbox(session, send, note, with_activity=plan.with_activity)
            finished: gateway_pb2.Finished | None = None

            async def tell(response: gateway_pb2.ReasonResponse) -> None:
                nonlocal finished
                if response.HasField("finished"):
                    response.finished.totals.prompt_tokens = parts.prompt_tokens
                await outbox.put(response)
                if response.HasField("commit"):
                    prefill.end()
                    metrics.count_commit(plan.policy.name, response.commit)
                    if self._draining and session.durable:
                        driver.abort(HandedOverError("this gateway is shutting down; resume at another one"))
                elif response.HasField("finished"):
                    finished = response.finished

            speculation = governor.level()
            machine = Machine(
                plan.policy,
                plan.max_steps,
                max_tokens=plan.max_reasoning_tokens,
                max_repeats=plan.max_repeats,
                speculation=speculation,
                committed=task.committed,
            )
            parts = ClusterParts(
                self._cluster,
                plan,
                task.context,
                deadline=task.deadline,
                verdict_seconds=self._verdict_seconds,
            )
            driver = Driver(
                machine,
                parts,
                tell,
                seconds=max(0.001, task.deadline - asyncio.get_running_loop().time()),
                with_activity=plan.with_activity or self._timelines.most > 0,
                governor=governor,
                record=record,
            )
            prefill = Prefill(parts, driver.totals.target)
            self._drivers[session.id] = driver
            # Its client has left, unless it turns out otherwise.
            fate, failure = Fate.CANCELLED, None
            try:
                # Sending counts as well: a client that does not read must not keep its place for ever.
                async with (
                    asyncio.timeout_at(task.deadline + LAST_WORDS_SECONDS),
                    asyncio.TaskGroup() as group,
                ):
                    keeping = group.create_task(session.keep(driver.abort))
                    draining = group.create_task(outbox.drain())
                    await outbox.begin(_started(session, plan, speculation), told=task.told)
                    prefill.begin(group, plan.policy, speculation, task.committed)
                    # What was committed before a failure still goes out.
                    failure = await _failure_of(driver)
                    fate = fate if failure else Fate.FINISHED
                    prefill.end()
                    # It asks nothing more of the target, however slowly its client reads.
                    governing.close()
                    await outbox.close()
                    # The session is held until its client has it all, however slowly it reads.
                    await draining
                    keeping.cancel()
                failure = session.lost or failure
            except TimeoutError:
                failure = LateError("the client did not read within the deadline")
            except Exception:
                fate = Fate.FAILED
                raise
            finally:
                await self._end(session, driver, plan.policy.name, fate, failure, finished)
            if failure:
                raise failure
        return finished

    async def _end(
        self,
        session: Session,
        driver: Driver,
        policy: str,
        fate: Fate,
        failure: ServiceError | None,
        finished: gateway_pb2.Finished | None,
    ) -> None:
        """Books how a session is left, and has its store know."""
        if self._drivers.get(session.id) is driver:
            del self._drivers[session.id]
        if failure:
            fate = _fate(failure)
        if fate is not Fate.FINISHED:
            finished = None
        metrics.count_end(policy, fate, driver.totals, finished.seconds if finished else None)
        why = {"why": str(failure)} if failure else {}
        log.info("session left", status=fate, policy=policy, steps=session.committed, **why)
        # The client may be gone and this task cancelled: the store is told all the same.
        await asyncio.shield(self._leave(session, failure, finished))

    async def close(self) -> None:
        """Gives up on what could not be stored."""
        for task in self._late:
            task.cancel()
        if self._late:
            await asyncio.wait(self._late)

    async def _leave(
        self,
        session: Session,
        failure: ServiceError | None,
        finished: gateway_pb2.Finished | None,
    ) -> None:
        """What the target refused has ended; what only could not go on here may be resumed."""
        if isinstance(failure, InvalidRequestError):
            status = Status.FAILED
        elif isinstance(failure, SessionCancelledError):
            # Mostly the store knows already.
            status = Status.CANCELLED
        elif finished:
            status = Status.FINISHED
        else:
            await self._let_go_of(session)
            return
        if not await session.end(status, finished) and len(self._late) < _MOST_LATE:
            # Its client need not wait for the store, nor the next session for its place.
            task = asyncio.create_task(session.end(status, finished, patience=_LATE_SECONDS))
            self._late.add(task)
            task.add_done_callback(self._late.discard)


def _started(session: Session, plan: Plan, speculation: Speculation) -> gateway_pb2.Started:
    return gateway_pb2.Started(
        session_id=session.id,
        policy=plan.policy.name,
        window=plan.policy.window,
        alpha=plan.alpha,
        durable=session.durable,
        speculation=convert.SPECULATIONS[speculation],
        max_steps=plan.max_steps,
    )


async def _failure_of(driver: Driver) -> ServiceError | None:
    """Runs it to its end; returns why that is no answer."""
    try:
        await driver.run()
    except ServiceError as error:
        return error
    return None


def _fate(failure: ServiceError) -> Fate:
    """How a session was left that has no answer from this gateway."""
    if isinstance(failure, SessionCancelledError):
        return Fate.CANCELLED
    return Fate.HANDED_OVER if isinstance(failure, HandedOverError) else Fate.FAILED
