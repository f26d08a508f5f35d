"""ReasoningService: the gRPC front."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from dreamr.digest import commit_digest
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from services.common import logs
from services.common.errors import (
    DivergedError,
    InvalidRequestError,
    LateError,
    NotFoundError,
    ServiceError,
    SessionCancelledError,
    UnavailableError,
)
from services.common.logs import MAX_SESSION_ID
from services.common.pair import Pair
from services.common.validation import seconds_left
from services.gateway import convert, metrics
from services.gateway.adoption import Adoption
from services.gateway.call import Call as Context
from services.gateway.callers import Caller, Callers
from services.gateway.cluster_parts import Cluster
from services.gateway.deadline import left
from services.gateway.entrance import Entrance
from services.gateway.images import check_images
from services.gateway.left_behind import LeftBehind
from services.gateway.messages import Step
from services.gateway.plan import Plan
from services.gateway.reasoning import LAST_WORDS_SECONDS, Reasoning, Send, Task
from services.gateway.recorder import Recorder
from services.gateway.sessions import Session
from services.gateway.settings import GatewaySettings
from services.gateway.store import Status, Store, StoredSession, StoreError, content_names
from services.gateway.timelines import Timelines

log = structlog.get_logger()

# Metadata behind a session that has no answer yet.
SESSION_KEY, COMMITTED_KEY = "dreamr-session-id", "dreamr-committed-steps"

MAX_REQUEST_ID = 128
_DIGEST_BYTES = 32

# How often the store is asked for news of a session that another gateway works on.
_FOLLOW_SECONDS = 0.1

_STATUSES = {status: getattr(gateway_pb2, f"SESSION_STATUS_{status.name}") for status in Status}


@dataclass(slots=True)
class _Listener:
    """Who is told of a session.

    Attributes:
        context: of the call, for what stands behind its end.
        deadline: the event loop's time.
        first: index of the next commit to tell.
        digest: of the commit before, as the client knows it; empty where it does not say.
    """

    session_id: str
    caller: Caller
    send: Send
    context: Context
    deadline: float
    first: int = 0
    digest: bytes = b""

    async def tell(self, steps: Iterable[bytes]) -> None:
        """Sends stored commits that come next."""
        for step in steps:
            await self.send(gateway_pb2.ReasonResponse(commit=gateway_pb2.Commit.FromString(step)))
            self.first += 1


class ReasoningService(gateway_pb2_grpc.ReasoningServiceServicer):
    """Serves `dreamr.v1.ReasoningService`, to gRPC and to the gateway's other fronts.

    Attributes:
        entrance: what holds for calls through all fronts together.
        timelines: of the last sessions.
    """

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
        self.entrance = Entrance(settings, callers or Callers(None))
        self._budgets = self.entrance.budgets
        recorder = (
            Recorder(settings.record, settings.record_share, settings.record_max_bytes)
            if settings.record
            else None
        )
        self.timelines = Timelines(
            settings.timelines,
            settings.recent_max_bytes,
            settings.session_ttl_seconds,
            self.entrance.callers.of_session,
        )
        self._left_behind = LeftBehind(store, settings.session_ttl_seconds, settings.lease_seconds)
        self._reasoning = Reasoning(
            cluster, settings.verdict_seconds, self.timelines, self._let_go_of, recorder
        )
        self._admission = self.entrance.admission
        self._adoption = Adoption(
            store, self._admission, self.entrance.callers.of_session, self._adopt, settings.lease_seconds
        )

    def drain(self) -> None:
        """Takes no more sessions, and hands over those that run."""
        self._reasoning.drain()

    @asynccontextmanager
    async def adopting(self) -> AsyncIterator[None]:
        """Within the block sessions in the background are taken up; at its end those are handed over."""
        task = asyncio.create_task(self._adoption.run(), name="adoption")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """Ends what goes on behind calls that are over."""
        await self._reasoning.close()

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
        logs.bind_session(session_id)
        stored = gateway_pb2.ReasonRequest(
            question=request.question,
            options=plan.options(),
            background=request.background,
            steps=request.steps,
        )
        kept = stored.SerializeToString(deterministic=True)
        listener = _Listener(
            session_id, caller, lambda response: _write(context, response), context, deadline
        )
        # Its caller may have lost its connection and ask once more.
        with self._left_behind.spared(session_id):
            async with self._admission.place(caller, left(deadline)):
                # While it waited this may have changed.
                self._reasoning.check_open()
                await check_images(images, self._settings)
                await self._left_behind.trim(caller)
                session = await Session.open(
                    self._store, session_id, kept, images, self._settings.lease_seconds
                )
                if session:
                    if session.away and self._settings.durable_only:
                        raise UnavailableError(f"sessions: {session.away}")
                    task = Task(plan, _context(session_id, request), deadline, committed=_closing(request))
                    await self._run(session, task, listener)
                    return
            # The same request once more: its client has lost the first one's stream.
            begun = await self._load(session_id, with_images=False)
            if begun.request != kept or list(begun.image_names) != content_names(images):
                raise InvalidRequestError.of("request_id", "has begun another question already")
            await self._follow(listener)

    async def Resume(  # type: ignore[override]  # noqa: N802 - as Reason
        self, request: gateway_pb2.ResumeRequest, context: Context
    ) -> None:
        """What the client has missed, then the live rest."""
        with self._caller(context) as caller:
            _check_session(request.session_id, caller)
            if len(request.last_commit_digest) not in (0, _DIGEST_BYTES):
                raise InvalidRequestError.of("last_commit_digest", f"must have {_DIGEST_BYTES} bytes")
            listener = _Listener(
                request.session_id,
                caller,
                lambda response: _write(context, gateway_pb2.ResumeResponse(happened=response)),
                context,
                self._deadline(context),
                request.from_index,
                request.last_commit_digest if request.from_index else b"",
            )
            with self._left_behind.spared(request.session_id):
                await self._follow(listener)

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
            # One of ours ends whatever the store says, which may be away, or has never had it.
            ours = self._reasoning.abort(
                request.session_id, SessionCancelledError("the session was cancelled")
            )
            cancelled = ours
            try:
                async with _store_errors():
                    cancelled |= await self._store.cancel(request.session_id)
            except UnavailableError:
                if not ours:
                    raise
            else:
                self._left_behind.remove(caller, request.session_id)
        return gateway_pb2.CancelResponse(cancelled=cancelled)

    def _caller(self, context: Context) -> AbstractContextManager[Caller]:
        return self.entrance.call(context.invocation_metadata() or ())

    async def _follow(self, listener: _Listener) -> None:
        """Tells of a session from a commit on; where nobody works on it, goes on with it."""
        async with _until(listener.deadline):
            await self._tell(listener)

    async def _tell(self, listener: _Listener) -> None:
        session_id, digest, started = listener.session_id, listener.digest, False
        lacks_until = float("inf")
        while True:
            # Asked again and again: not for megabytes of images.
            stored = await self._load(session_id, listener.first - bool(digest), with_images=False)
            steps = stored.steps
            if digest and (steps or stored.status is Status.FINISHED):
                known = steps and commit_digest(gateway_pb2.Commit.FromString(steps[0])) == digest
                if not known:
                    raise DivergedError(f"session {session_id} went on otherwise than its client knows")
                steps, digest = steps[1:], b""
            if not started:
                await listener.send(gateway_pb2.ReasonResponse(started=self._started(session_id, stored)))
                started = True
            await listener.tell(steps)
            if stored.status is Status.FINISHED:
                finished = gateway_pb2.Finished.FromString(stored.outcome)
                await listener.send(gateway_pb2.ReasonResponse(finished=finished))
                return
            if stored.status is Status.CANCELLED:
                raise SessionCancelledError(f"session {session_id} was cancelled")
            if stored.status is Status.FAILED:
                raise InvalidRequestError(f"session {session_id} failed: it was refused, or tried too often")
            if not stored.held:
                if not steps and (digest or await self._lacks(session_id, listener.first)):
                    now = asyncio.get_running_loop().time()
                    lacks_until = min(lacks_until, now + self._settings.lease_seconds)
                    if now >= lacks_until:
                        missing = listener.first - 1
                        raise NotFoundError(f"session {session_id} has no step {missing}, or not any more")
                elif await self._go_on(listener):
                    return
            if left(listener.deadline) <= _FOLLOW_SECONDS:
                raise LateError("the session was not finished within the deadline")
            await asyncio.sleep(_FOLLOW_SECONDS)

    async def _lacks(self, session_id: str, first: int) -> bool:
        """Whether the client was told of more than is stored.

        Then its gateway had no store, and may write it back; taken over before, the session would go on
        otherwise than its client was told.
        """
        return first > 0 and not (await self._load(session_id, first - 1, with_images=False)).steps

    async def _go_on(self, listener: _Listener) -> bool:
        """Takes a session over and works on it; false when another gateway was faster."""
        self._reasoning.check_open()
        async with self._admission.place(listener.caller, left(listener.deadline)):
            self._reasoning.check_open()
            async with _store_errors():
                taken = await Session.take_over(
                    self._store, listener.session_id, self._settings.lease_seconds
                )
            if taken is None:
                return False
            session, stored = taken
            self._left_behind.remove(listener.caller, session.id)
            try:
                await listener.tell(stored.steps[listener.first :])
            except BaseException:
                # Its client has gone: nobody would work on it until the lease lapses.
                await asyncio.shield(self._let_go_of(session))
                self._left(session)
                raise
            await self._run(session, await self._rest(session, stored, listener.deadline), listener)
            return True

    async def _adopt(self, session_id: str) -> None:
        """Takes up a session in the background, if nobody holds it, and works on it; nobody is told."""
        logs.bind_session(session_id)
        async with _store_errors():
            taken = await Session.take_over(self._store, session_id, self._settings.lease_seconds)
        if taken is None:
            return
        session, stored = taken
        if stored.takeovers >= self._settings.max_adoptions:
            log.error("session given up", takeovers=stored.takeovers)
            await session.end(Status.FAILED)
            return
        log.info("session adopted", steps=session.committed)
        deadline = asyncio.get_running_loop().time() + self._settings.max_call_seconds
        send = self._charging(self.entrance.callers.of_session(session.id), _tell_nobody)
        await self._reasoning.run(session, await self._rest(session, stored, deadline), send)

    async def _rest(self, session: Session, stored: StoredSession, deadline: float) -> Task:
        """What is still to be done on a session that was taken over.

        Raises:
            InvalidRequestError: not by this gateway's settings; the session is let go of.
        """
        request = gateway_pb2.ReasonRequest.FromString(stored.request)
        request.images.extend(common_pb2.Image(data=image) for image in stored.images)
        try:
            plan = Plan.of(request, self._pair)
        except InvalidRequestError:
            await self._let_go_of(session)
            raise
        return Task(
            plan,
            _context(session.id, request),
            deadline,
            committed=_closing(request)
            or [convert.step_from(gateway_pb2.Commit.FromString(step).step) for step in stored.steps],
            told=True,
            origin=stored.origin,
        )

    def _charging(self, caller: Caller, send: Send) -> Send:
        """Sends, and charges the caller for what was written."""
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

        return charge

    async def _run(self, session: Session, task: Task, listener: _Listener) -> None:
        """Works on a session; one without an answer names what is kept, for people and for programs."""
        try:
            await self._reasoning.run(session, task, self._charging(listener.caller, listener.send))
        except asyncio.CancelledError:
            self._left(session)
            raise
        except ServiceError as failure:
            if isinstance(failure, LateError):
                self._left(session)
            listener.context.set_trailing_metadata(
                ((SESSION_KEY, session.id), (COMMITTED_KEY, str(session.stored)))
            )
            kept = f"session {session.id} keeps {session.stored} committed steps"
            raise type(failure)(f"{failure}; {kept}") from failure

    async def _let_go_of(self, session: Session) -> None:
        """Leaves a session that has not ended to whoever resumes it."""
        await session.release()
        # One in the background is worked off without its client.
        if not (session.lost or session.background):
            self._left_behind.add(self.entrance.callers.of_session(session.id), session)

    def _left(self, session: Session) -> None:
        """Its client has gone, or has no more time: one in the background goes on without."""
        if session.background:
            self._adoption.tell(session.id)

    def _started(self, session_id: str, stored: StoredSession) -> gateway_pb2.Started:
        options = gateway_pb2.ReasonRequest.FromString(stored.request).options
        return gateway_pb2.Started(
            session_id=session_id,
            policy=options.policy,
            window=options.window,
            alpha=options.alpha,
            durable=self._store.durable,
            speculation=gateway_pb2.SPECULATION_FULL if options.window else gateway_pb2.SPECULATION_NONE,
            max_steps=options.max_steps,
        )

    async def _load(self, session_id: str, first: int = 0, *, with_images: bool = True) -> StoredSession:
        async with _store_errors():
            stored = await self._store.load(session_id, first, with_images=with_images)
        if stored is None:
            raise NotFoundError(f"there is no session {session_id}, or not any more")
        return stored

    def _deadline(self, context: Context) -> float:
        seconds = seconds_left(context, self._settings.max_call_seconds)
        return asyncio.get_running_loop().time() + seconds


def _context(session_id: str, request: gateway_pb2.ReasonRequest) -> common_pb2.Context:
    """What every part is told, before any step of the session's own."""
    return common_pb2.Context(
        session_id=session_id,
        question=request.question,
        images=request.images,
        steps=[step.text for step in request.steps if step.text.strip()],
    )


def _closing(request: gateway_pb2.ReasonRequest) -> list[Step]:
    """For the machine, where the given steps close the reasoning: the answer is all that is left."""
    return [Step("", closes=True)] if request.steps and request.steps[-1].closes else []


def _check_session(session_id: str, caller: Caller) -> None:
    """Returns when the caller may ask for a session of that id, which the log then names."""
    if not session_id or len(session_id) > MAX_SESSION_ID:
        raise InvalidRequestError.of("session_id", f"must have 1 to {MAX_SESSION_ID} characters")
    # The store makes keys of them.
    if not session_id.replace("-", "").isalnum() or not session_id.isascii():
        raise InvalidRequestError.of("session_id", "must be of letters, digits and hyphens")
    if not caller.owns(session_id):
        # As if it were not there: whether it is, is nobody else's business.
        raise NotFoundError(f"there is no session {session_id}, or not any more")
    logs.bind_session(session_id)


async def _write(context: Context, response: Any) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # The client has left, and gRPC is about to cancel this handler: that is no failure of ours. Should it
        # not, the session's deadline does.
        await asyncio.get_running_loop().create_future()


async def _tell_nobody(response: gateway_pb2.ReasonResponse) -> None:
    """Who wants to know of an adopted session asks the store."""


@asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    """A client that does not read must not keep its place for ever.

    Raises:
        LateError: the block has not ended by the deadline and its last words.
    """
    try:
        async with asyncio.timeout_at(deadline + LAST_WORDS_SECONDS):
            yield
    except TimeoutError as error:
        raise LateError("the client did not read within the deadline") from error


@asynccontextmanager
async def _store_errors() -> AsyncIterator[None]:
    """Without the store nothing is known of a session that is not ours."""
    try:
        yield
    except StoreError as error:
        metrics.STORE_FAILURES.inc()
        raise UnavailableError(f"sessions: {error}") from error
