"""ReasoningService: the gRPC front."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc

from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from services.common import logs
from services.common.channel import MAX_MESSAGE_BYTES
from services.common.errors import (
    InvalidRequestError,
    LateError,
    NotFoundError,
    ServiceError,
    SessionCancelledError,
    UnavailableError,
)
from services.common.pair import Pair
from services.common.validation import seconds_left
from services.gateway import convert
from services.gateway.admission import Admission
from services.gateway.budgets import Budgets
from services.gateway.callers import Caller, Callers
from services.gateway.cluster_parts import Cluster
from services.gateway.images import check_image
from services.gateway.plan import Plan
from services.gateway.reasoning import Reasoning, Send, Task
from services.gateway.recorder import Recorder
from services.gateway.sessions import Session
from services.gateway.settings import GatewaySettings
from services.gateway.shares import Shares
from services.gateway.store import Status, Store, StoredSession, StoreError

Context = grpc.aio.ServicerContext[Any, Any]

# Metadata behind a session that has no answer yet.
SESSION_KEY, COMMITTED_KEY = "dreamr-session-id", "dreamr-committed-steps"

# What Triton's channel takes of them, a third larger in base64.
MAX_IMAGES_BYTES = MAX_MESSAGE_BYTES * 5 // 8
MAX_REQUEST_ID = 128
MAX_SESSION_ID = 64

# How often the store is asked for news of a session that another gateway works on.
_FOLLOW_SECONDS = 0.1

_STATUSES = {status: getattr(gateway_pb2, f"SESSION_STATUS_{status.name}") for status in Status}


class ReasoningService(gateway_pb2_grpc.ReasoningServiceServicer):
    """Serves `dreamr.v1.ReasoningService`."""

    def __init__(
        self,
        settings: GatewaySettings,
        pair: Pair,
        cluster: Cluster,
        store: Store,
        callers: Callers | None = None,
    ) -> None:
        self._settings = settings
        self._pair = pair
        self._store = store
        self._callers = callers or Callers(None)
        self._budgets = Budgets()
        self._shares = Shares(max(1, settings.max_calls // 2))
        recorder = (
            Recorder(settings.record, settings.record_share, settings.record_max_bytes)
            if settings.record
            else None
        )
        self._reasoning = Reasoning(cluster, settings.verdict_seconds, recorder)
        self._admission = Admission(settings.max_sessions, settings.max_waiting)

    def drain(self) -> None:
        """Takes no more sessions, and hands over those that run."""
        self._reasoning.drain()

    async def Reason(  # type: ignore[override]  # noqa: N802 - a coroutine that writes, under the proto's name
        self, request: gateway_pb2.ReasonRequest, context: Context
    ) -> None:
        """Checks, waits for a place, runs the session and streams what happens."""
        with self._caller(context) as caller:
            self._reasoning.check_open()
            self._budgets.check(caller)
            await self._reason(request, caller, context)

    async def _reason(self, request: gateway_pb2.ReasonRequest, caller: Caller, context: Context) -> None:
        deadline = self._deadline(context)
        plan = Plan.of(request, self._pair)
        if len(request.request_id) > MAX_REQUEST_ID:
            raise InvalidRequestError.of("request_id", f"has more than {MAX_REQUEST_ID} characters")
        images = [image.data for image in request.images]
        session_id = Session.id_of(request.request_id, caller.tag)
        stored = gateway_pb2.ReasonRequest(question=request.question, options=plan.options())
        kept = stored.SerializeToString(deterministic=True)
        async with self._admission.place(caller, _left(deadline)):
            await self._check_images(images)
            session = await Session.open(self._store, session_id, kept, images, self._settings.lease_seconds)
            if session:
                if session.away and self._settings.durable_only:
                    raise UnavailableError(f"sessions: {session.away}")
                task = Task(
                    plan,
                    common_pb2.Context(
                        session_id=session_id, question=request.question, images=request.images
                    ),
                    deadline,
                )
                await self._run(session, task, caller, lambda response: _write(context, response), context)
                return
        # The same request once more: its client has lost the first one's stream.
        begun = await self._load(session_id)
        if begun.request != kept or begun.images != tuple(images):
            raise InvalidRequestError.of("request_id", "has begun another question already")
        await self._follow(
            session_id, 0, deadline, caller, lambda response: _write(context, response), context
        )

    async def Resume(  # type: ignore[override]  # noqa: N802 - as Reason
        self, request: gateway_pb2.ResumeRequest, context: Context
    ) -> None:
        """What the client has missed, then the live rest."""
        with self._caller(context) as caller:
            _check_session(request.session_id, caller)
            await self._follow(
                request.session_id,
                request.from_index,
                self._deadline(context),
                caller,
                lambda response: _write(context, gateway_pb2.ResumeResponse(happened=response)),
                context,
            )

    async def GetSession(  # noqa: N802 - the name is the proto's
        self, request: gateway_pb2.GetSessionRequest, context: Context
    ) -> gateway_pb2.GetSessionResponse:
        """Where a session stands."""
        with self._caller(context) as caller:
            _check_session(request.session_id, caller)
            stored = await self._load(request.session_id, with_images=False)
        return gateway_pb2.GetSessionResponse(
            status=_STATUSES[stored.status],
            held=stored.held and stored.status is Status.RUNNING,
            commits=[gateway_pb2.Commit.FromString(step) for step in stored.steps],
            finished=gateway_pb2.Finished.FromString(stored.outcome) if stored.outcome else None,
        )

    async def Cancel(  # noqa: N802 - the name is the proto's
        self, request: gateway_pb2.CancelRequest, context: Context
    ) -> gateway_pb2.CancelResponse:
        """Ends a session; a gateway elsewhere hears of it when it next has to do with the store."""
        with self._caller(context) as caller:
            _check_session(request.session_id, caller)
            async with _store_errors():
                cancelled = await self._store.cancel(request.session_id)
        if cancelled:
            self._reasoning.abort(request.session_id, SessionCancelledError("the session was cancelled"))
        return gateway_pb2.CancelResponse(cancelled=cancelled)

    @contextmanager
    def _caller(self, context: Context) -> Iterator[Caller]:
        """Who calls; the call is counted for the block."""
        caller = self._callers.of(context.invocation_metadata() or ())
        if caller.name:
            logs.bind_caller(caller.name)
        with self._shares.call(caller):
            yield caller

    async def _follow(
        self, session_id: str, first: int, deadline: float, caller: Caller, send: Send, context: Context
    ) -> None:
        """Tells of a session from a commit on; where nobody works on it, goes on with it."""
        started = False
        while True:
            # Asked again and again: not for megabytes of images.
            stored = await self._load(session_id, first, with_images=False)
            if not started:
                await send(gateway_pb2.ReasonResponse(started=self._started(session_id, stored)))
                started = True
            for step in stored.steps:
                await send(gateway_pb2.ReasonResponse(commit=gateway_pb2.Commit.FromString(step)))
                first += 1
            if stored.status is Status.FINISHED:
                finished = gateway_pb2.Finished.FromString(stored.outcome)
                await send(gateway_pb2.ReasonResponse(finished=finished))
                return
            if stored.status is Status.CANCELLED:
                raise SessionCancelledError(f"session {session_id} was cancelled")
            if stored.status is Status.FAILED:
                raise InvalidRequestError(f"session {session_id}: the target refused it")
            if not stored.held and await self._go_on(session_id, first, deadline, caller, send, context):
                return
            if _left(deadline) <= _FOLLOW_SECONDS:
                raise LateError("the session was not finished within the deadline")
            await asyncio.sleep(_FOLLOW_SECONDS)

    async def _go_on(
        self, session_id: str, first: int, deadline: float, caller: Caller, send: Send, context: Context
    ) -> bool:
        """Takes a session over and works on it; false when another gateway was faster."""
        self._reasoning.check_open()
        async with self._admission.place(caller, _left(deadline)):
            async with _store_errors():
                taken = await Session.take_over(self._store, session_id, self._settings.lease_seconds)
            if taken is None:
                return False
            session, stored = taken
            commits = [gateway_pb2.Commit.FromString(step) for step in stored.steps]
            request = gateway_pb2.ReasonRequest.FromString(stored.request)
            images = [common_pb2.Image(data=image) for image in stored.images]
            request.images.extend(images)
            for commit in commits[first:]:
                await send(gateway_pb2.ReasonResponse(commit=commit))
            task = Task(
                Plan.of(request, self._pair),
                common_pb2.Context(session_id=session_id, question=request.question, images=images),
                deadline,
                committed=[convert.step_from(commit.step) for commit in commits],
                told=True,
            )
            await self._run(session, task, caller, send, context)
            return True

    async def _run(self, session: Session, task: Task, caller: Caller, send: Send, context: Context) -> None:
        """Works on a session; one without an answer names what is kept, for people and for programs."""
        logs.bind_session(session.id)
        charged = 0

        async def charge(response: gateway_pb2.ReasonResponse) -> None:
            nonlocal charged
            if response.HasField("commit"):
                tokens = response.commit.step.tokens
            else:
                totals = response.finished.totals
                tokens = max(0, totals.draft.committed_tokens + totals.target.committed_tokens - charged)
            charged += tokens
            self._budgets.charge(caller, tokens)
            await send(response)

        try:
            await self._reasoning.run(session, task, charge)
        except ServiceError as failure:
            context.set_trailing_metadata(((SESSION_KEY, session.id), (COMMITTED_KEY, str(session.stored))))
            kept = f"session {session.id} keeps {session.stored} committed steps"
            raise type(failure)(f"{failure}; {kept}") from failure

    def _started(self, session_id: str, stored: StoredSession) -> gateway_pb2.Started:
        options = gateway_pb2.ReasonRequest.FromString(stored.request).options
        return gateway_pb2.Started(
            session_id=session_id,
            policy=options.policy,
            window=options.window,
            alpha=options.alpha,
            durable=self._store.durable,
            speculation=gateway_pb2.SPECULATION_FULL if options.window else gateway_pb2.SPECULATION_NONE,
        )

    async def _load(self, session_id: str, first: int = 0, *, with_images: bool = True) -> StoredSession:
        async with _store_errors():
            stored = await self._store.load(session_id, first, with_images=with_images)
        if stored is None:
            raise NotFoundError(f"there is no session {session_id}, or not any more")
        return stored

    async def _check_images(self, images: Sequence[bytes]) -> None:
        settings = self._settings
        if (size := sum(map(len, images))) > MAX_IMAGES_BYTES:
            raise InvalidRequestError.of("images", f"{size:,} bytes in all, more than {MAX_IMAGES_BYTES:,}")
        for index, image in enumerate(images):
            await asyncio.to_thread(
                check_image,
                image,
                f"images[{index}]",
                max_bytes=settings.max_image_bytes,
                max_pixels=settings.max_image_pixels,
            )

    def _deadline(self, context: Context) -> float:
        left = seconds_left(context, self._settings.max_call_seconds)
        return asyncio.get_running_loop().time() + left


def _check_session(session_id: str, caller: Caller) -> None:
    if not session_id or len(session_id) > MAX_SESSION_ID:
        raise InvalidRequestError.of("session_id", f"must have 1 to {MAX_SESSION_ID} characters")
    if not caller.owns(session_id):
        # As if it were not there: whether it is, is nobody else's business.
        raise NotFoundError(f"there is no session {session_id}, or not any more")


async def _write(context: Context, response: Any) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # The client has left, and gRPC is about to cancel this handler: that is no failure of ours. Should it
        # not, the session's deadline does.
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def _store_errors() -> AsyncIterator[None]:
    """Without the store nothing is known of a session that is not ours."""
    try:
        yield
    except StoreError as error:
        raise UnavailableError(f"sessions: {error}") from error


def _left(deadline: float) -> float:
    return max(0.001, deadline - asyncio.get_running_loop().time())
