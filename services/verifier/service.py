"""VerifierService: asks the target for evidence and applies a rule to it."""

import time
from typing import Any

import grpc

from dreamr.v1 import common_pb2, target_pb2, target_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from services.common import logs, tracing
from services.common.errors import InvalidRequestError, from_rpc
from services.common.pair import Pair
from services.common.validation import check_context, check_range, seconds_left
from services.verifier.evidence import Token
from services.verifier.rules import Case, Rules

# What is kept back of the caller's time, so that a late judge becomes a verdict and not a timeout.
_REPLY_SECONDS = 0.05

Context = grpc.aio.ServicerContext[Any, Any]


class VerifierService(verifier_pb2_grpc.VerifierServiceServicer):
    """Serves `dreamr.v1.VerifierService`."""

    def __init__(
        self,
        target: "target_pb2_grpc.TargetServiceAsyncStub",
        pair: Pair,
        *,
        top: int,
        judge_seconds: float,
    ) -> None:
        self._target = target
        self._limits = pair.reasoning
        self._rules = Rules(pair)
        self._top = top
        self._judge_seconds = judge_seconds

    async def Verify(  # noqa: N802 - the name is the proto's
        self, request: verifier_pb2.VerifyRequest, context: Context
    ) -> verifier_pb2.VerifyResponse:
        """A verdict on one candidate; a judge that is late is a reject, one that is gone an error."""
        logs.bind_session(request.context.session_id)
        check_context(request.context, self._limits)
        if not request.HasField("candidate"):
            raise InvalidRequestError.of("candidate", "must be given")
        rule = self._rules.of(request.rule)
        alpha = request.alpha if request.HasField("alpha") else rule.alpha
        check_range("alpha", alpha, 0, 1)
        started = time.perf_counter()
        response = verifier_pb2.VerifyResponse()
        if request.candidate.truncated:
            verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_TRUNCATED, alpha=alpha)
        else:
            case = Case(
                request.candidate,
                request.rival if request.HasField("rival") else None,
                lambda instruction: self._score(request, context, instruction, response.usage),
            )
            verdict = await rule.judge(case, alpha)
        verdict.seconds = time.perf_counter() - started
        response.verdict.CopyFrom(verdict)
        return response

    async def _score(
        self,
        request: verifier_pb2.VerifyRequest,
        context: Context,
        instruction: str,
        usage: common_pb2.Usage,
    ) -> list[Token] | None:
        """The target's evidence; None when it is late."""
        question = target_pb2.ScoreRequest(
            context=request.context, candidate=request.candidate, instruction=instruction, top=self._top
        )
        seconds = max(0.001, seconds_left(context, self._judge_seconds) - _REPLY_SECONDS)
        try:
            with tracing.span("call target", kind="CLIENT") as span:
                scored = await self._target.Score(question, timeout=seconds, metadata=span.metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return None
            raise from_rpc(error, "target") from error
        usage.CopyFrom(scored.usage)
        return [Token(token.id, token.text, token.logprob) for token in scored.tokens]
