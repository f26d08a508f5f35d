"""The answer behind closed reasoning, by either model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from dreamr.v1 import common_pb2
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from services.common.triton import TritonModel
from services.common.validation import check_context, check_range, check_sampling

MAX_ANSWER_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Written:
    """An answer; `truncated` when it hit the limit of tokens."""

    text: str
    truncated: bool
    usage: common_pb2.Usage


class AnswerWriter:
    """Writes answers with one model."""

    def __init__(self, model: TritonModel, prompts: Prompts, settings: ReasoningSettings) -> None:
        self._model = model
        self._prompts = prompts
        self._settings = settings

    async def write(
        self,
        context: common_pb2.Context,
        sampling: common_pb2.Sampling,
        max_tokens: int | None,
        seconds: float,
        version: int | None = None,
    ) -> Written:
        """Checks the request's fields and writes the answer.

        Args:
            max_tokens: None means the pair's limit.
            seconds: how long it may take.
            version: of the model; None for the latest one.

        Raises:
            ServiceError: as `TritonModel.generate`; InvalidRequestError names the field.
        """
        check_context(context, self._settings)
        limit = self._settings.max_answer_tokens if max_tokens is None else max_tokens
        check_range("max_tokens", limit, 1, MAX_ANSWER_TOKENS)
        parameters = {**check_sampling(sampling).parameters(), "max_tokens": limit}
        images: Sequence[bytes] = [image.data for image in context.images]
        started = time.perf_counter()
        chunk = await self._model.complete(
            self._prompts.answer(context.question, len(images), context.steps),
            images,
            parameters,
            seconds=seconds,
            version=version,
        )
        usage = common_pb2.Usage(
            prompt_tokens=chunk.prompt_tokens,
            output_tokens=chunk.tokens,
            seconds=time.perf_counter() - started,
        )
        return Written(chunk.text.strip(), chunk.finish_reason == "length", usage)
