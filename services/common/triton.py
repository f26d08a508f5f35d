"""The Triton client: one model that speaks the tensors of Triton's vLLM backend.

Of tritonclient only the generated messages are used: its asyncio client leaves a stream running when the
caller leaves the loop, and wraps every tensor once more.

What was learnt with tritonserver 2.51: the header `triton_grpc_error` (real statuses instead of messages in
the stream) crashes the whole server after a few refused requests, so errors are told apart by their text.
How streams must end is told in `services.common.triton_stream`.
"""

import asyncio
import base64
import json
import re
import secrets
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dreamr.tls import Tls
from services.common import tracing
from services.common.channel import open_triton_channel
from services.common.errors import (
    CONTEXT_TOO_LONG,
    BrokenError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    ServiceError,
    UnavailableError,
    error_of,
    from_rpc,
)
from services.common.triton_stream import CANCEL, END_SECONDS, TritonStream, refused

# Our backend begins a message with the name of its status. The rest is how Triton and vLLM say it.
_STATUS = re.compile(r"^([A-Z_]+): ")
_ERRORS: tuple[tuple[re.Pattern[str], type[ServiceError]], ...] = (
    (re.compile(r"version \d+ is not found", re.IGNORECASE), NotFoundError),
    (re.compile(r"queue is full|maximum queue size", re.IGNORECASE), OverloadedError),
    (
        re.compile(r"being unloaded|unknown model|no available versions|is not ready", re.IGNORECASE),
        UnavailableError,
    ),
    (CONTEXT_TOO_LONG, InvalidRequestError),
)
# No answer of Triton's: all others are told apart by their text, as in streams.
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_PROBE_SECONDS = 5.0
SEEDS = 1 << 63
"""A seed is below it: engines take signed numbers."""
_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def behind(self, steps: int) -> "Sampling":
        """How the step behind so many is drawn: by one seed all would be drawn alike."""
        return self if self.seed is None else replace(self, seed=(self.seed + steps) % SEEDS)

    def parameters(self) -> dict[str, Any]:
        """In vLLM's names."""
        chosen: dict[str, Any] = {"temperature": self.temperature}
        if self.temperature > 0:
            chosen["top_p"] = self.top_p
            if self.seed is not None:
                chosen["seed"] = self.seed
        return chosen


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One of the likeliest next tokens; `logprob` is a natural logarithm."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a generation.

    Attributes:
        text: what is new.
        tokens: how many are new.
        prompt_tokens: tokens of the prompt.
        finish_reason: "stop" or "length" with the last piece.
        version: of the model.
        logprobs: for each new token, the likeliest at its place, best first; only where asked for.
        sampled: for each new token, itself; as `logprobs`.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: str | None = None
    version: int = 0
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = field(default=())
    sampled: tuple[TokenLogprob, ...] = field(default=())


class TritonModel:
    """One model behind one Triton server. Close it when done.

    Args:
        name: of Triton's certificate, and
        tls: what it is verified by; see `open_triton_channel`.
    """

    def __init__(self, address: str, model: str, name: str = "", tls: Tls | None = None) -> None:
        self.model = model
        self._channel = open_triton_channel(address, name, tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._streams = set[TritonStream]()
        self._cancels: bool | None = None

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        if ending := {found.reading for found in self._streams if found.is_over}:
            await asyncio.wait(ending, timeout=END_SECONDS)
        await self._channel.close()

    async def load(self, seconds: float, config: dict[str, Any] | None = None) -> None:
        """Loads the model, or the versions of it that are new in the repository, by explicit control.

        Versions that the policy no longer names are let go once the new ones are ready and their own requests
        have ended.

        Args:
            seconds: deadline of the call.
            config: the model's configuration in the place of `config.pbtxt`, in its JSON form.

        Raises:
            ServiceError: Triton refuses, or the model does not load.
        """
        request = service_pb2.RepositoryModelLoadRequest(model_name=self.model)
        if config is not None:
            request.parameters["config"].string_param = json.dumps(config)
        try:
            await self._stub.RepositoryModelLoad(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.model) from error

    @asynccontextmanager
    async def generate(
        self,
        prompt: str,
        images: Sequence[bytes],
        parameters: dict[str, Any],
        *,
        stream: bool,
        seconds: float,
        version: int | None = None,
    ) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Generates within the block; leaving the block, however, cancels what still runs.

        Args:
            parameters: vLLM's SamplingParams.
            stream: several pieces, or all in one.
            seconds: deadline of the call.
            version: of the model; None for the latest one that is loaded.

        Raises:
            ServiceError: as Triton's status says; BrokenError when it ends without a final piece.
        """
        request = self._request(version)
        _fill(request, prompt, images, parameters, stream=stream)
        if self._cancels is None:
            clock = asyncio.get_running_loop().time
            began = clock()
            self._cancels = await self._takes_cancel(seconds)
            seconds = max(0.001, seconds - (clock() - began))
        # A model's name says nothing about anybody's question; prompts and texts are no attributes.
        with tracing.span("triton", {"gen_ai.request.model": self.model}, "CLIENT") as span:
            found = TritonStream(self._stub, request, self._cancels, seconds)
            self._streams.add(found)
            found.reading.add_done_callback(lambda _: self._streams.discard(found))
            try:
                yield self._chunks(found, span)
            finally:
                # Leaving an `async for` cancels nothing; without this the model would generate on.
                if not found.is_over:
                    span.set({tracing.CANCELLED: True})
                    found.cancel()

    async def complete(
        self,
        prompt: str,
        images: Sequence[bytes],
        parameters: dict[str, Any],
        *,
        seconds: float,
        version: int | None = None,
    ) -> Chunk:
        """Generates all in one piece; raises as `generate` does."""
        found: Chunk | None = None
        async with self.generate(
            prompt, images, parameters, stream=False, seconds=seconds, version=version
        ) as chunks:
            async for chunk in chunks:
                found = chunk
        if found is None:
            raise BrokenError(f"{self.model}: ended without an output")
        return found

    async def probe(self) -> None:
        """A real inference: a crashed model still calls itself ready.

        Raises:
            ServiceError: the model does not answer as it should.
        """
        try:
            ready = await self._stub.ModelReady(
                service_pb2.ModelReadyRequest(name=self.model), timeout=_PROBE_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.model) from error
        if not ready.ready:
            raise BrokenError(f"{self.model}: not ready")
        await self.complete("?", (), {"max_tokens": 1, "temperature": 0}, seconds=_PROBE_SECONDS)

    async def knock(self, seconds: float) -> None:
        """Has Triton refuse a request, which takes no model and no queue.

        Raises:
            ServiceError: it did not; LateError when it says nothing at all.
        """
        try:
            async for _ in self._stub.ModelStreamInfer((refused(self.model),), timeout=seconds):
                pass
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, "Triton") from error

    async def _takes_cancel(self, seconds: float) -> bool:
        """Whether a request ends a generation: the backend knows it, and it cannot reach another instance."""
        wanted = service_pb2.ModelConfigRequest(name=self.model)
        try:
            found = (await self._stub.ModelConfig(wanted, timeout=seconds)).config
        except grpc.aio.AioRpcError as error:
            if error.code() in _LOST:
                raise from_rpc(error, self.model) from error
            raise self._error(error.details() or "") from error
        instances = sum(group.count * max(1, len(group.gpus)) for group in found.instance_group)
        return any(one.name == CANCEL for one in found.input) and instances <= 1

    async def _chunks(self, found: TritonStream, span: tracing.Span) -> AsyncIterator[Chunk]:
        written = 0
        try:
            async for message in found:
                response = message.infer_response
                if message.error_message:
                    found.finish()
                    raise self._error(message.error_message)
                if response.outputs:
                    chunk = _chunk(response)
                    written += chunk.tokens
                    span.set(
                        {
                            "gen_ai.usage.input_tokens": chunk.prompt_tokens,
                            "gen_ai.usage.output_tokens": written,
                        }
                    )
                    if chunk.finish_reason is not None:
                        span.set({"gen_ai.response.finish_reasons": (chunk.finish_reason,)})
                        found.finish()
                        yield chunk
                        return
                    yield chunk
        except grpc.aio.AioRpcError as error:
            # Another Triton may come in its place.
            self._cancels = None
            raise from_rpc(error, self.model) from error
        raise BrokenError(f"{self.model}: ended before its generation was finished")

    def _error(self, message: str) -> ServiceError:
        """What an error in the stream means; it carries a text only."""
        text = _REQUEST_ID.sub("", message)
        status = _STATUS.match(text)
        known = status[1] if status and status[1] in grpc.StatusCode.__members__ else None
        if status and known:
            text = text[status.end() :]
        for pattern, kind in _ERRORS:
            if pattern.search(text):
                return kind(text if kind is InvalidRequestError else f"{self.model}: {text}")
        kind = error_of(grpc.StatusCode[known]) if known else BrokenError
        return kind(text if kind is InvalidRequestError else f"{self.model}: {text}")

    def _request(self, version: int | None) -> service_pb2.ModelInferRequest:
        return service_pb2.ModelInferRequest(
            model_name=self.model,
            model_version="" if version is None else str(version),
            id=secrets.token_hex(8),
        )


def _fill(
    request: service_pb2.ModelInferRequest,
    prompt: str,
    images: Sequence[bytes],
    parameters: dict[str, Any],
    *,
    stream: bool,
) -> None:
    _add(request, "text_input", "BYTES", [_packed(prompt.encode())])
    if images:
        _add(request, "image", "BYTES", [_packed(base64.b64encode(image)) for image in images])
    _add(request, "sampling_parameters", "BYTES", [_packed(json.dumps(parameters).encode())])
    _add(request, "stream", "BOOL", [b"\x01" if stream else b"\x00"])
    for name in ("exclude_input_in_output", *_RETURNS):
        _add(request, name, "BOOL", [b"\x01"])
    if "logprobs" in parameters:
        _add(request, "return_logprobs", "BOOL", [b"\x01"])


_RETURNS = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")


def _add(request: service_pb2.ModelInferRequest, name: str, kind: str, elements: list[bytes]) -> None:
    request.inputs.add(name=name, datatype=kind, shape=[len(elements)])
    request.raw_input_contents.append(b"".join(elements))


def _packed(element: bytes) -> bytes:
    """A BYTES element as Triton reads it: its length, then itself."""
    return struct.pack("<I", len(element)) + element


def _unpacked(raw: bytes) -> str:
    return raw[4:].decode()


def _chunk(response: Any) -> Chunk:
    raw = {
        output.name: content
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    reason = _unpacked(raw["finish_reason"])
    places = _places(_unpacked(raw["logprobs"])) if "logprobs" in raw else []
    return Chunk(
        text=_unpacked(raw["text_output"]),
        tokens=struct.unpack_from("<I", raw["num_output_tokens"])[0],
        prompt_tokens=struct.unpack_from("<I", raw["num_input_tokens"])[0],
        finish_reason=None if reason == "None" else reason,
        version=int(response.model_version or 0),
        logprobs=tuple(tuple(sorted(place, key=lambda found: -found.logprob)) for place in places),
        sampled=tuple(place[0] for place in places),
    )


def _places(text: str) -> list[list[TokenLogprob]]:
    """vLLM's form: for each token a map of token id to log-probability, rank and text, its own first."""
    return [
        [
            TokenLogprob(int(token), found["decoded_token"] or "", float(found["logprob"]))
            for token, found in place.items()
        ]
        for place in json.loads(text) or []
    ]
