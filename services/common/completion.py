"""CompletionService: one model by itself, behind what its chat template writes. Draft and target serve it."""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from dreamr.v1 import completion_pb2, completion_pb2_grpc
from services.common import logs
from services.common.errors import InvalidRequestError
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from services.common.triton import Chunk, TokenLogprob, TritonModel
from services.common.validation import check_range, check_sampling, seconds_left

MAX_TOKENS = 1 << 20
MAX_TOP = 20
MAX_STOPS, MAX_STOP_CHARS = 16, 256

Context = grpc.aio.ServicerContext[Any, Any]

_ROLES = {
    completion_pb2.CHAT_ROLE_SYSTEM: "system",
    completion_pb2.CHAT_ROLE_USER: "user",
    completion_pb2.CHAT_ROLE_ASSISTANT: "assistant",
}


class CompletionService(completion_pb2_grpc.CompletionServiceServicer):
    """Serves `dreamr.v1.CompletionService` with one model.

    Args:
        version: of the model, asked with each call; None means the latest one.
    """

    def __init__(
        self,
        model: TritonModel,
        prompts: Prompts,
        settings: ReasoningSettings,
        max_seconds: float,
        version: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._settings = settings
        self._max_seconds = max_seconds
        self._version = version

    async def Complete(  # noqa: N802 - the name is the proto's
        self, request: completion_pb2.CompleteRequest, context: Context
    ) -> AsyncIterator[completion_pb2.CompleteResponse]:
        """What the model writes, piece by piece."""
        logs.bind_session(request.id)
        images = self._check_images(request.messages)
        parameters = _parameters(request)
        prompt = self._prompts.conversation(
            [_rendered(message, index) for index, message in enumerate(request.messages)],
            opens_turn=not (request.no_generation_prompt or request.continue_final_message),
            continues=request.continue_final_message,
            thinking=request.thinking if request.HasField("thinking") else None,
        )
        started = time.perf_counter()
        tokens = 0
        async with self._model.generate(
            prompt,
            images,
            parameters,
            stream=True,
            seconds=seconds_left(context, self._max_seconds),
            version=self._version(),
        ) as chunks:
            async for chunk in chunks:
                tokens += chunk.tokens
                response = completion_pb2.CompleteResponse(
                    text=chunk.text, tokens=chunk.tokens, places=_places(chunk, request)
                )
                if chunk.finish_reason is not None:
                    response.truncated = chunk.finish_reason == "length"
                    response.usage.prompt_tokens = chunk.prompt_tokens
                    response.usage.output_tokens = tokens
                    response.usage.seconds = time.perf_counter() - started
                yield response

    def _check_images(self, messages: Iterable[completion_pb2.ChatMessage]) -> list[bytes]:
        parts = (part for message in messages for part in message.parts)
        images = [part.image.data for part in parts if part.HasField("image")]
        if len(images) > self._settings.max_images:
            raise InvalidRequestError.of(
                "messages", f"at most {self._settings.max_images} images allowed, {len(images)} given"
            )
        if not all(images):
            raise InvalidRequestError.of("messages", "an image must not be empty")
        return images


def _parameters(request: completion_pb2.CompleteRequest) -> dict[str, Any]:
    """The request's sampling, checked, in vLLM's names."""
    parameters = check_sampling(request.sampling).parameters()
    # Unset, vLLM would write 16; more than fits ends where the context does.
    parameters["max_tokens"] = request.max_tokens if request.HasField("max_tokens") else MAX_TOKENS
    check_range("max_tokens", parameters["max_tokens"], 1, MAX_TOKENS)
    if request.stop:
        if len(request.stop) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARS for stop in request.stop):
            raise InvalidRequestError.of(
                "stop", f"must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters"
            )
        parameters["stop"] = list(request.stop)
    if request.HasField("top_logprobs"):
        check_range("top_logprobs", request.top_logprobs, 0, MAX_TOP)
        parameters["logprobs"] = request.top_logprobs
    return parameters


def _rendered(message: completion_pb2.ChatMessage, index: int) -> dict[str, Any]:
    """A message as chat templates take it; text alone as a string, which is all that some of them know."""
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidRequestError.of(f"messages[{index}].role", "must be set")
    if any(part.HasField("image") for part in message.parts):
        content: Any = [
            {"type": "image"} if part.HasField("image") else {"type": "text", "text": part.text}
            for part in message.parts
        ]
    else:
        content = "".join(part.text for part in message.parts)
    return {"role": role, "content": content}


def _places(chunk: Chunk, request: completion_pb2.CompleteRequest) -> list[completion_pb2.TokenPlace]:
    return [
        completion_pb2.TokenPlace(
            token=_logprob(sampled), top=[_logprob(one) for one in likeliest[: request.top_logprobs]]
        )
        for sampled, likeliest in zip(chunk.sampled, chunk.logprobs, strict=True)
    ]


def _logprob(found: TokenLogprob) -> completion_pb2.TokenLogprob:
    return completion_pb2.TokenLogprob(id=found.id, text=found.text, logprob=found.logprob)
