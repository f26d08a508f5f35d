"""TargetService: writes a rival, the reasoning alone or the answer; scores the next word."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from dreamr.v1 import target_pb2, target_pb2_grpc
from services.common import logs
from services.common.answers import AnswerWriter
from services.common.errors import InvalidRequestError
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from services.common.steps import OnProgress, StepWriter, Written
from services.common.triton import TritonModel
from services.common.validation import check_context, check_range, check_sampling, seconds_left
from services.target.progress import Progress

MAX_STEPS = 64
MAX_TOP = 20
# A rival may stand in it. Prompts keep the last few.
MAX_INSTRUCTION_CHARS = 1 << 16

Context = grpc.aio.ServicerContext[Any, Any]


class TargetService(target_pb2_grpc.TargetServiceServicer):
    """Serves `dreamr.v1.TargetService` with one model."""

    def __init__(
        self, model: TritonModel, prompts: Prompts, settings: ReasoningSettings, max_seconds: float
    ) -> None:
        self._model = model
        self._writer = StepWriter(model, settings)
        self._answers = AnswerWriter(model, prompts, settings)
        self._prompts = prompts
        self._settings = settings
        self._max_seconds = max_seconds

    async def Generate(  # noqa: N802 - the name is the proto's
        self, request: target_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[target_pb2.GenerateResponse]:
        """Steps as they are written, and between them what the call has cost so far."""
        logs.bind_session(request.context.session_id)
        check_context(request.context, self._settings)
        check_range("max_steps", request.max_steps, 0, MAX_STEPS)
        async with Progress(lambda report: self._steps(request, context, report)) as events:
            async for event in events:
                if isinstance(event, int):
                    progress = target_pb2.GenerateResponse.Progress(tokens=event)
                    yield target_pb2.GenerateResponse(progress=progress)
                else:
                    written = target_pb2.GenerateResponse.WrittenStep(step=event.step, usage=event.usage)
                    yield target_pb2.GenerateResponse(written=written)

    async def _steps(
        self, request: target_pb2.GenerateRequest, context: Context, report: OnProgress
    ) -> AsyncIterator[Written]:
        ahead = request.context
        limit = self._settings.max_step_tokens
        max_tokens = request.max_step_tokens if request.HasField("max_step_tokens") else limit
        check_range("max_step_tokens", max_tokens, 1, 4096)
        sampling = check_sampling(request.sampling)
        images = [image.data for image in ahead.images]
        steps = list(ahead.steps)
        if request.max_steps == 0:
            async for written in self._writer.run_on(
                self._prompts.reasoning(ahead.question, len(images), steps),
                images,
                sampling,
                max_tokens=min(
                    max_tokens * max(1, self._settings.max_steps - len(steps)),
                    self._settings.max_reasoning_tokens,
                ),
                max_step_tokens=max_tokens,
                seconds=seconds_left(context, self._max_seconds),
                on_progress=report,
            ):
                yield written
            return
        for _ in range(request.max_steps):
            written = await self._writer.write(
                self._prompts.reasoning(ahead.question, len(images), steps),
                images,
                sampling.behind(len(steps)),
                max_tokens=max_tokens,
                seconds=seconds_left(context, self._max_seconds),
                on_progress=report,
            )
            yield written
            if written.step.closes or written.step.truncated:
                return
            steps.append(written.step.text)

    async def Answer(  # noqa: N802 - the name is the proto's
        self, request: target_pb2.AnswerRequest, context: Context
    ) -> target_pb2.AnswerResponse:
        """The answer behind closed reasoning."""
        logs.bind_session(request.context.session_id)
        written = await self._answers.write(
            request.context,
            request.sampling,
            request.max_tokens if request.HasField("max_tokens") else None,
            seconds_left(context, self._max_seconds),
        )
        return target_pb2.AnswerResponse(text=written.text, usage=written.usage, truncated=written.truncated)

    async def Score(  # noqa: N802 - the name is the proto's
        self, request: target_pb2.ScoreRequest, context: Context
    ) -> target_pb2.ScoreResponse:
        """One token with its log-probabilities, behind the candidate and the instruction."""
        ahead = request.context
        logs.bind_session(ahead.session_id)
        check_context(ahead, self._settings)
        check_range("top", request.top, 1, MAX_TOP)
        if not (request.candidate.text.strip() or request.candidate.closes):
            raise InvalidRequestError.of("candidate.text", "must not be empty")
        if not request.instruction.strip():
            raise InvalidRequestError.of("instruction", "must not be empty")
        if len(request.instruction) > MAX_INSTRUCTION_CHARS:
            raise InvalidRequestError.of("instruction", f"has more than {MAX_INSTRUCTION_CHARS:,} characters")
        images = [image.data for image in ahead.images]
        started = asyncio.get_running_loop().time()
        chunk = await self._model.complete(
            self._prompts.judge(
                ahead.question,
                len(images),
                ahead.steps,
                request.candidate.text,
                request.candidate.closes,
                request.instruction,
            ),
            images,
            {"max_tokens": 1, "temperature": 0, "logprobs": request.top},
            seconds=seconds_left(context, self._max_seconds),
        )
        response = target_pb2.ScoreResponse()
        for found in chunk.logprobs[0] if chunk.logprobs else ():
            response.tokens.add(id=found.id, text=found.text, logprob=found.logprob)
        response.usage.prompt_tokens = chunk.prompt_tokens
        response.usage.output_tokens = chunk.tokens
        response.usage.seconds = asyncio.get_running_loop().time() - started
        return response
