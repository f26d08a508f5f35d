"""ReasoningService: the gRPC front."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import structlog

from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc
from services.common import logs
from services.common.channel import MAX_MESSAGE_BYTES
from services.common.errors import InvalidRequestError, LateError, ServiceError
from services.common.pair import Pair
from services.common.validation import seconds_left
from services.gateway import convert, metrics
from services.gateway.admission import Admission
from services.gateway.cluster_parts import Cluster, ClusterParts
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.governor import Governor, SessionGovernor
from services.gateway.images import check_image
from services.gateway.outbox import Outbox
from services.gateway.plan import Plan
from services.gateway.sessions import Session
from services.gateway.settings import GatewaySettings
from services.gateway.store import Status, Store

Context = grpc.aio.ServicerContext[Any, Any]

# Metadata behind a session that failed.
SESSION_KEY, COMMITTED_KEY = "dreamr-session-id", "dreamr-committed-steps"

# What Triton's channel takes of them, a third larger in base64.
MAX_IMAGES_BYTES = MAX_MESSAGE_BYTES * 5 // 8

log = structlog.get_logger()

# Past its deadline a session may still send what was committed, but not for long.
_LAST_WORDS_SECONDS = 1.0


class ReasoningService(gateway_pb2_grpc.ReasoningServiceServicer):
    """Serves `dreamr.v1.ReasoningService`."""

    def __init__(self, settings: GatewaySettings, pair: Pair, cluster: Cluster, store: Store) -> None:
        self._settings = settings
        self._pair = pair
        self._cluster = cluster
        self._store = store
        self._governor = Governor()
        self._admission = Admission(settings.max_sessions, settings.max_waiting)

    async def Reason(  # type: ignore[override]  # noqa: N802 - a coroutine that writes, under the proto's name
        self, request: gateway_pb2.ReasonRequest, context: Context
    ) -> None:
        """Checks, waits for a place, runs the session and streams what happens."""
        deadline = asyncio.get_running_loop().time() + seconds_left(context, self._settings.max_call_seconds)
        plan = Plan.of(request, self._pair)
        images = [image.data for image in request.images]
        async with self._admission.place(_left(deadline)):
            await self._check_images(images)
            session = await Session.open(self._store, request.question, plan.options(), images)
            logs.bind_session(session.id)
            with metrics.ACTIVE.track_inprogress(), self._governor.session(plan.policy) as governor:
                await self._run(session, plan, request, context, deadline, governor)

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

    async def _run(
        self,
        session: Session,
        plan: Plan,
        request: gateway_pb2.ReasonRequest,
        context: Context,
        deadline: float,
        governor: SessionGovernor,
    ) -> None:
        outbox = Outbox(session, lambda response: _send(context, response))
        finished: gateway_pb2.Finished | None = None

        async def tell(response: gateway_pb2.ReasonResponse) -> None:
            nonlocal finished
            if response.HasField("commit"):
                metrics.count_commit(plan.policy.name, response.commit)
            elif response.HasField("finished"):
                finished = response.finished
            await outbox.put(response)

        speculation = governor.level()
        driver = Driver(
            Machine(
                plan.policy,
                plan.max_steps,
                max_tokens=plan.max_reasoning_tokens,
                max_repeats=plan.max_repeats,
                speculation=speculation,
            ),
            ClusterParts(
                self._cluster,
                plan,
                common_pb2.Context(session_id=session.id, question=request.question, images=request.images),
                deadline=deadline,
                verdict_seconds=self._settings.verdict_seconds,
            ),
            tell,
            seconds=_left(deadline),
            with_activity=plan.with_activity,
            governor=governor,
        )
        started = gateway_pb2.Started(
            session_id=session.id,
            policy=plan.policy.name,
            window=plan.policy.window,
            alpha=plan.alpha,
            durable=session.durable,
            speculation=convert.SPECULATIONS[speculation],
        )
        status, failure = Status.CANCELLED, None
        try:
            # Sending counts as well: a client that does not read must not keep its place for ever.
            async with asyncio.timeout_at(deadline + _LAST_WORDS_SECONDS), asyncio.TaskGroup() as group:
                group.create_task(outbox.drain())
                await outbox.put(gateway_pb2.ReasonResponse(started=started))
                try:
                    await driver.run()
                    status = Status.FINISHED
                except ServiceError as error:
                    # What was committed before still goes out.
                    status, failure = Status.FAILED, error
                await outbox.close()
        except TimeoutError:
            status, failure = Status.FAILED, LateError("the client did not read within the deadline")
        finally:
            metrics.count_end(plan.policy.name, status, driver.totals, finished.seconds if finished else None)
            log.info(
                "session ended", status=status, policy=plan.policy.name, steps=session.committed, why=failure
            )
            # The client may be gone and this task cancelled: the store is told all the same.
            await asyncio.shield(session.end(status, finished))
        if failure:
            # What to resume from, for people and for programs.
            context.set_trailing_metadata(((SESSION_KEY, session.id), (COMMITTED_KEY, str(session.stored))))
            kept = f"session {session.id} keeps {session.stored} committed steps"
            raise type(failure)(f"{failure}; {kept}") from failure


async def _send(context: Context, response: gateway_pb2.ReasonResponse) -> None:
    try:
        await context.write(response)
    except grpc.aio.InternalError:
        # The client has left, and gRPC is about to cancel this handler: that is no failure of ours. Should it
        # not, the session's deadline does.
        await asyncio.get_running_loop().create_future()


def _left(deadline: float) -> float:
    return max(0.001, deadline - asyncio.get_running_loop().time())
