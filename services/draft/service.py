"""DraftService: continues a context and streams whole steps."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from dreamr.v1 import draft_pb2, draft_pb2_grpc
from dreamr.versions import MAX_VERSION
from services.common import logs
from services.common.answers import AnswerWriter
from services.common.errors import NotFoundError, UnavailableError
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from services.common.steps import StepWriter
from services.common.triton import TritonModel
from services.common.validation import check_context, check_range, check_sampling, seconds_left
from services.draft.shares import VersionShares

MAX_STEPS = 64

Context = grpc.aio.ServicerContext[Any, Any]


class DraftService(draft_pb2_grpc.DraftServiceServicer):
    """Serves `dreamr.v1.DraftService` with one model."""

    def __init__(
        self,
        model: TritonModel,
        prompts: Prompts,
        settings: ReasoningSettings,
        max_seconds: float,
        shares: VersionShares | None = None,
    ) -> None:
        self._writer = StepWriter(model, settings)
        self._answers = AnswerWriter(model, prompts, settings)
        self._prompts = prompts
        self._settings = settings
        self._max_seconds = max_seconds
        self._shares = shares or VersionShares(None)

    async def Draft(  # noqa: N802 - the name is the proto's
        self, request: draft_pb2.DraftRequest, context: Context
    ) -> AsyncIterator[draft_pb2.DraftResponse]:
        """One request to Triton a step: the engine's prefix cache makes the growing prompt cheap."""
        ahead = request.context
        logs.bind_session(ahead.session_id)
        check_context(ahead, self._settings)
        check_range("max_steps", request.max_steps, 1, MAX_STEPS)
        limit = self._settings.max_step_tokens
        max_tokens = request.max_step_tokens if request.HasField("max_step_tokens") else limit
        check_range("max_step_tokens", max_tokens, 1, 4096)
        sampling = check_sampling(request.sampling)
        version = self._version(request)
        images = [image.data for image in ahead.images]
        steps = list(ahead.steps)
        for _ in range(request.max_steps):
            with _version_named(by_caller=request.HasField("model_version")):
                written = await self._writer.write(
                    self._prompts.reasoning(ahead.question, len(images), steps),
                    images,
                    sampling.behind(len(steps)),
                    max_tokens=max_tokens,
                    seconds=seconds_left(context, self._max_seconds),
                    logprobs=request.logprobs,
                    version=version,
                )
            yield draft_pb2.DraftResponse(
                step=written.step, usage=written.usage, model_version=written.version
            )
            if written.step.closes or written.step.truncated:
                return
            steps.append(written.step.text)

    async def Answer(  # noqa: N802 - the name is the proto's
        self, request: draft_pb2.DraftServiceAnswerRequest, context: Context
    ) -> draft_pb2.DraftServiceAnswerResponse:
        """The answer behind closed reasoning."""
        logs.bind_session(request.context.session_id)
        with _version_named(by_caller=request.HasField("model_version")):
            written = await self._answers.write(
                request.context,
                request.sampling,
                request.max_tokens if request.HasField("max_tokens") else None,
                seconds_left(context, self._max_seconds),
                self._version(request),
            )
        return draft_pb2.DraftServiceAnswerResponse(
            text=written.text, usage=written.usage, truncated=written.truncated
        )

    def _version(self, request: draft_pb2.DraftRequest | draft_pb2.DraftServiceAnswerRequest) -> int | None:
        """The one that is asked for, or the session's own; None where there are no shares."""
        if not request.HasField("model_version"):
            return self._shares.of(request.context.session_id)
        check_range("model_version", request.model_version, 1, MAX_VERSION)
        return request.model_version


@contextmanager
def _version_named(*, by_caller: bool) -> Iterator[None]:
    """A version that Triton has not loaded: another worker may have it, unless the caller has made it up."""
    try:
        yield
    except NotFoundError as error:
        if by_caller:
            raise
        raise UnavailableError(str(error)) from error
