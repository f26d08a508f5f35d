"""`Parts` over gRPC: the calls of one session, retried on another replica from where they are."""

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import grpc

from dreamr.tls import Tls
from dreamr.v1 import (
    common_pb2,
    draft_pb2,
    draft_pb2_grpc,
    target_pb2,
    target_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)
from services.common.errors import OverloadedError, ServiceError, UnavailableError, from_rpc
from services.gateway import convert
from services.gateway.deadline import left
from services.gateway.hedge import Attempt, Hedge, hedged
from services.gateway.messages import (
    Author,
    StartAnswer,
    StartDraft,
    StartRival,
    StartVerdict,
    Step,
    Verdict,
)
from services.gateway.parts import Answer, Progress
from services.gateway.plan import Plan
from services.gateway.replica import Replica
from services.gateway.replicas import Replicas

Result = TypeVar("Result")
Stub = TypeVar("Stub")

# Seconds before each further attempt. Nobody stands in for the target, so one that restarts is waited for, as
# long as a service takes; for draft and verifier the target stands in, so they are asked on every replica and
# not waited for.
_PATIENT = (0.1, 0.2, 0.4, 0.8, 1.6)
# A target that is full will have room again: it is asked until the session's deadline, ever more seldom.
_FULL_SECONDS, _FULL_MOST = 0.05, 1.0

# Workers that write for the same position must not write the same; a greedy request is drawn at this
# temperature in all lanes but the first.
_LANE_TEMPERATURE = 0.7


class _Patience:
    """Whether, and after how long, a part that failed is asked again."""

    def __init__(self, part: str, replicas: int) -> None:
        self._is_target = part == "target"
        others = (0.0,) * (replicas - 1)
        self._down = iter((*others, *_PATIENT) if self._is_target else others or (0.0,))
        self._full = _FULL_SECONDS

    def seconds(self, failure: Exception) -> float | None:
        """Seconds to wait; None when it is not to be asked again."""
        if isinstance(failure, OverloadedError) and self._is_target:
            seconds, self._full = self._full, min(self._full * 2, _FULL_MOST)
            # Many sessions wait: they must not all come back at once.
            return seconds * random.uniform(0.5, 1.5)
        return next(self._down, None) if isinstance(failure, UnavailableError) else None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The other services, as this gateway knows them.

    Attributes:
        hedge: of drafts, whose first steps are waited for.
    """

    draft: "Replicas[draft_pb2_grpc.DraftServiceAsyncStub]"
    target: "Replicas[target_pb2_grpc.TargetServiceAsyncStub]"
    verifier: "Replicas[verifier_pb2_grpc.VerifierServiceAsyncStub]"
    hedge: Hedge = field(default_factory=Hedge)

    @classmethod
    def connect(
        cls, draft: str, target: str, verifier: str, tls: Tls | None = None, *, resolve_seconds: float = 5.0
    ) -> "Cluster":
        """From addresses as Replicas takes them; `tls` is what this gateway shows the services."""
        every = resolve_seconds
        return cls(
            Replicas(draft, draft_pb2_grpc.DraftServiceStub, "draft", tls, resolve_seconds=every),
            Replicas(target, target_pb2_grpc.TargetServiceStub, "target", tls, resolve_seconds=every),
            Replicas(verifier, verifier_pb2_grpc.VerifierServiceStub, "verifier", tls, resolve_seconds=every),
        )

    async def close(self) -> None:
        """Closes every channel."""
        for replicas in (self.draft, self.target, self.verifier):
            await replicas.close()


class ClusterParts:
    """The `Parts` of one session.

    Args:
        context: question, images, and steps that are taken for granted.
        deadline: the event loop's time at which the session must be over.
        verdict_seconds: how long one verdict may take.

    Attributes:
        prompt_tokens: of the question with its images; 0 before a first step was written.
    """

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        context: common_pb2.Context,
        *,
        deadline: float,
        verdict_seconds: float,
    ) -> None:
        self._cluster = cluster
        self._plan = plan
        self._context = context
        self._deadline = deadline
        self._verdict_seconds = verdict_seconds
        self.prompt_tokens = 0

    async def draft(self, start: StartDraft) -> AsyncGenerator[Step, None]:
        """See Parts."""
        request = draft_pb2.DraftRequest(
            context=self._ahead(start.prefix),
            max_steps=start.steps,
            max_step_tokens=self._plan.max_step_tokens,
            sampling=self._drawn(f"draft {start.index} {start.lane}", start.lane),
            logprobs=self._plan.policy.rule.needs_logprobs,
            model_version=self._plan.draft_version,
        )
        stream = self._stream(
            "draft",
            self._cluster.draft,
            lambda stub: stub.Draft,
            request,
            lambda response: response.step,
            start.lane,
            self._cluster.hedge,
        )
        async with aclosing(stream) as responses:
            async for response in responses:
                self._count_prompt(start.prefix, response.usage)
                yield replace(convert.step_from(response.step), version=response.model_version)

    async def rival(self, start: StartRival) -> AsyncGenerator[Step | Progress, None]:
        """See Parts."""
        request = target_pb2.GenerateRequest(
            context=self._ahead(start.prefix),
            max_steps=start.steps,
            max_step_tokens=self._plan.max_step_tokens,
            sampling=self._drawn(f"target {start.index}"),
        )
        stream = self._stream("target", self._cluster.target, lambda stub: stub.Generate, request, _written)
        async with aclosing(stream) as responses:
            async for response in responses:
                if response.HasField("written"):
                    self._count_prompt(start.prefix, response.written.usage)
                    yield convert.step_from(response.written.step)
                else:
                    yield Progress(response.progress.tokens)

    async def prefill(self, steps: Sequence[str]) -> int:
        """Has the target read the question and `steps`, so that a first verdict finds that done.

        Returns the tokens that it wrote all the same, which nobody wants.

        Raises:
            ServiceError: as the calls of Parts do.
        """
        request = target_pb2.GenerateRequest(context=self._ahead(steps), max_steps=1, max_step_tokens=1)
        stream = self._stream("target", self._cluster.target, lambda stub: stub.Generate, request, _written)
        tokens = 0
        async with aclosing(stream) as responses:
            async for response in responses:
                tokens += response.written.step.tokens
        return tokens

    async def verdict(self, start: StartVerdict) -> Verdict:
        """See Parts. A late verdict is the caller's to handle; it is not asked for again."""
        request = verifier_pb2.VerifyRequest(
            context=self._ahead(start.prefix),
            candidate=convert.step_to(start.candidate),
            alpha=self._plan.alpha,
            rule=convert.RULES[self._plan.policy.rule],
            rival=convert.step_to(start.rival) if start.rival else None,
        )
        response = await self._call(
            "verifier", self._cluster.verifier, lambda stub: stub.Verify, request, self._verdict_seconds
        )
        return convert.verdict_from(response.verdict)

    async def answer(self, start: StartAnswer) -> Answer:
        """See Parts."""
        context, most, drawn = self._ahead(start.steps), self._plan.max_answer_tokens, self._drawn("answer")
        response: target_pb2.AnswerResponse | draft_pb2.DraftServiceAnswerResponse
        if start.author is Author.DRAFT:
            asked = draft_pb2.DraftServiceAnswerRequest(
                context=context, max_tokens=most, sampling=drawn, model_version=self._plan.draft_version
            )
            response = await self._call("draft", self._cluster.draft, lambda stub: stub.Answer, asked)
        else:
            request = target_pb2.AnswerRequest(context=context, max_tokens=most, sampling=drawn)
            response = await self._call("target", self._cluster.target, lambda stub: stub.Answer, request)
        return Answer(response.text, response.usage.output_tokens, response.truncated)

    def _count_prompt(self, prefix: Sequence[str], usage: common_pb2.Usage) -> None:
        if not prefix:
            self.prompt_tokens = self.prompt_tokens or usage.prompt_tokens

    def _drawn(self, what: str, lane: int = 0) -> common_pb2.Sampling:
        """How `what` is drawn: by a seed of its own, or all draws of a session would be alike."""
        sampling = common_pb2.Sampling()
        sampling.CopyFrom(self._plan.sampling)
        if lane and not sampling.temperature:
            sampling.temperature = _LANE_TEMPERATURE
        if sampling.HasField("seed"):
            digest = hashlib.blake2b(f"{sampling.seed}|{what}".encode(), digest_size=8).digest()
            sampling.seed = int.from_bytes(digest) >> 1  # engines take signed numbers
        return sampling

    def _ahead(self, steps: Sequence[str]) -> common_pb2.Context:
        context = self._context
        return common_pb2.Context(
            session_id=context.session_id,
            question=context.question,
            images=context.images,
            steps=[*context.steps, *steps],
        )

    async def _call(
        self,
        part: str,
        replicas: Replicas[Stub],
        method: Callable[[Stub], Callable[..., Awaitable[Result]]],
        request: Any,
        most: float = float("inf"),
    ) -> Result:
        patience = _Patience(part, len(replicas.order("")))
        tried: set[Replica[Stub]] = set()
        while True:
            try:
                replica = replicas.choose(self._context.session_id, 0, tried)
                with replica.call() as stub, replica.span() as span:
                    timeout = min(most, left(self._deadline))
                    return await method(stub)(request, timeout=timeout, metadata=span.metadata)
            except (grpc.aio.AioRpcError, UnavailableError) as error:
                await self._wait_or_raise(_failure(error, part), patience)

    async def _stream(
        self,
        part: str,
        replicas: Replicas[Stub],
        method: Callable[[Stub], Callable[..., Any]],
        request: Any,
        step_of: Callable[[Any], common_pb2.Step | None],
        lane: int = 0,
        hedge: Hedge | None = None,
    ) -> AsyncGenerator[Any, None]:
        more = True
        session_id = self._context.session_id
        patience = _Patience(part, len(replicas.order("")))
        tried: set[Replica[Stub]] = set()

        async def responses_of(replica: Replica[Stub]) -> AsyncGenerator[Any, None]:
            with replica.call() as stub, replica.span() as span:
                call = method(stub)(request, timeout=left(self._deadline), metadata=span.metadata)
                try:
                    async for response in call:
                        replica.answered()
                        yield response
                finally:
                    # Leaving the loop cancels nothing by itself; this reaches the model within an iteration.
                    call.cancel()

        def again(first: Replica[Stub]) -> Attempt[Any] | None:
            for replica in replicas.order(session_id, lane):
                if replica is not first and replica.ready:
                    return Attempt(replica, responses_of(replica))
            return None

        while True:
            try:
                replica = replicas.choose(session_id, lane, tried)
                stream = responses_of(replica)
                if hedge:
                    stream = hedged(Attempt(replica, stream), partial(again, replica), hedge)
                async with aclosing(stream) as responses:
                    async for response in responses:
                        if step := step_of(response):
                            more = _go_behind(request, step)
                        yield response
                return
            except (grpc.aio.AioRpcError, UnavailableError) as error:
                if not more:
                    return
                await self._wait_or_raise(_failure(error, part), patience)

    async def _wait_or_raise(self, failure: Exception, patience: _Patience) -> None:
        seconds = patience.seconds(failure)
        if seconds is None or seconds >= left(self._deadline):
            raise failure
        await asyncio.sleep(seconds)


def _failure(error: grpc.aio.AioRpcError | UnavailableError, part: str) -> ServiceError:
    return from_rpc(error, part) if isinstance(error, grpc.aio.AioRpcError) else error


def _written(response: target_pb2.GenerateResponse) -> common_pb2.Step | None:
    return response.written.step if response.HasField("written") else None


def _go_behind(request: draft_pb2.DraftRequest | target_pb2.GenerateRequest, step: common_pb2.Step) -> bool:
    """Moves a request behind a step that it has brought; false when no more is to come.

    A run of steps goes on behind one that was too long.
    """
    runs_on = request.max_steps == 0 and step.text
    if step.closes or (step.truncated and not runs_on) or request.max_steps == 1:
        return False
    request.context.steps.append(step.text)
    if request.max_steps:
        request.max_steps -= 1
    return True
