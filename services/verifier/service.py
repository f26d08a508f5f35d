"""VerifierService: asks the target for evidence and applies TBVM."""

import time
from typing import Any

import grpc

from dreamr.v1 import common_pb2, target_pb2, target_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from services.common import logs
from services.common.errors import InvalidRequestError, from_rpc
from services.common.pair import ReasoningSettings, TbvmSettings
from services.common.validation import check_context, check_range, seconds_left
from services.verifier.tbvm import Tbvm

# What is kept back of the caller's time, so that a late judge becomes a verdict and not a timeout.
_REPLY_SECONDS = 0.05

Context = grpc.aio.ServicerContext[Any, Any]


class VerifierService(verifier_pb2_grpc.VerifierServiceServicer):
    """Serves `dreamr.v1.VerifierService`."""

    def __init__(
        self,
        target: "target_pb2_grpc.TargetServiceAsyncStub",
        settings: TbvmSettings,
        limits: ReasoningSettings,
        *,
        top: int,
        judge_seconds: float,
    ) -> None:
        self._target = target
        self._settings = settings
        self._limits = limits
        self._rule = Tbvm(settings.positive, settings.negative, settings.mass_floor)
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
        alpha = request.alpha if request.HasField("alpha") else self._settings.alpha
        check_range("alpha", alpha, 0, 1)
        started = time.perf_counter()
        response = verifier_pb2.VerifyResponse()
        if request.candidate.truncated:
            verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_TRUNCATED, alpha=alpha)
        else:
            verdict = await self._judge(request, context, alpha, response.usage)
        verdict.seconds = time.perf_counter() - started
        response.verdict.CopyFrom(verdict)
        return response

    async def _judge(
        self,
        request: verifier_pb2.VerifyRequest,
        context: Context,
        alpha: float,
        usage: common_pb2.Usage,
    ) -> common_pb2.Verdict:
        question = target_pb2.ScoreRequest(
            context=request.context,
            candidate=request.candidate,
            instruction=self._settings.instruction,
            top=self._top,
        )
        seconds = max(0.001, seconds_left(context, self._judge_seconds) - _REPLY_SECONDS)
        try:
            scored = await self._target.Score(question, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_LATE, alpha=alpha)
            raise from_rpc(error, "target") from error
        usage.CopyFrom(scored.usage)
        return self._rule.judge(((token.text, token.logprob) for token in scored.tokens), alpha)
