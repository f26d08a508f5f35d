"""The Triton client: one model that speaks the tensors of Triton's vLLM backend.

The only module that imports tritonclient, and of it only the generated messages: its asyncio client leaves a
stream running when the caller leaves the loop, and wraps every tensor once more.
"""

import base64
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from services.common.channel import open_channel
from services.common.errors import BrokenError, from_rpc

# Real gRPC statuses instead of a message in a stream that looks well.
_METADATA = (("triton_grpc_error", "true"),)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; temperature 0 is greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

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
        logprobs: for each new token, the likeliest at its place, best first; only where asked for.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: str | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = field(default=())


class TritonModel:
    """One model behind one Triton server. Close it when done."""

    def __init__(self, address: str, model: str) -> None:
        self.model = model
        self._channel = open_channel(address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close()

    @asynccontextmanager
    async def generate(
        self,
        prompt: str,
        images: Sequence[bytes],
        parameters: dict[str, Any],
        *,
        stream: bool,
        seconds: float,
    ) -> AsyncIterator[AsyncIterator[Chunk]]:
        """Generates within the block; leaving the block, however, cancels what still runs.

        Args:
            parameters: vLLM's SamplingParams.
            stream: several pieces, or all in one.
            seconds: deadline of the call.

        Raises:
            ServiceError: as Triton's status says; BrokenError when it ends without a final piece.
        """
        request = self._request(prompt, images, parameters, stream=stream)
        call = self._stub.ModelStreamInfer(iter([request]), metadata=_METADATA, timeout=seconds)
        try:
            yield self._chunks(call)
        finally:
            # Leaving an `async for` cancels nothing; without this the model would generate on.
            call.cancel()

    async def complete(
        self, prompt: str, images: Sequence[bytes], parameters: dict[str, Any], *, seconds: float
    ) -> Chunk:
        """Generates all in one piece; raises as `generate` does."""
        async with self.generate(prompt, images, parameters, stream=False, seconds=seconds) as chunks:
            async for chunk in chunks:
                return chunk
        raise BrokenError(f"{self.model}: ended without an output")

    async def probe(self) -> None:
        """A real inference: a crashed model still calls itself ready.

        Raises:
            ServiceError: the model does not answer as it should.
        """
        try:
            ready = await self._stub.ModelReady(service_pb2.ModelReadyRequest(name=self.model), timeout=5)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.model) from error
        if not ready.ready:
            raise BrokenError(f"{self.model}: not ready")
        await self.complete("?", (), {"max_tokens": 1, "temperature": 0}, seconds=5)

    async def _chunks(self, call: Any) -> AsyncIterator[Chunk]:
        finished = False
        try:
            async for message in call:
                if message.error_message:
                    raise BrokenError(f"{self.model}: {message.error_message}")
                response = message.infer_response
                if response.outputs:
                    chunk = _chunk(response)
                    finished = finished or chunk.finish_reason is not None
                    yield chunk
                if _is_final(response):
                    break
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.model) from error
        if not finished:
            raise BrokenError(f"{self.model}: ended before its generation was finished")

    def _request(
        self, prompt: str, images: Sequence[bytes], parameters: dict[str, Any], *, stream: bool
    ) -> service_pb2.ModelInferRequest:
        request = service_pb2.ModelInferRequest(model_name=self.model)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        _add(request, "text_input", "BYTES", [_packed(prompt.encode())])
        if images:
            _add(request, "image", "BYTES", [_packed(_base64(image)) for image in images])
        _add(request, "sampling_parameters", "BYTES", [_packed(json.dumps(parameters).encode())])
        _add(request, "stream", "BOOL", [b"\x01" if stream else b"\x00"])
        for name in ("exclude_input_in_output", *_RETURNS):
            _add(request, name, "BOOL", [b"\x01"])
        if "logprobs" in parameters:
            _add(request, "return_logprobs", "BOOL", [b"\x01"])
        return request


_RETURNS = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")


def _add(request: service_pb2.ModelInferRequest, name: str, kind: str, elements: list[bytes]) -> None:
    request.inputs.add(name=name, datatype=kind, shape=[len(elements)])
    request.raw_input_contents.append(b"".join(elements))


def _packed(element: bytes) -> bytes:
    """A BYTES element as Triton reads it: its length, then itself."""
    return struct.pack("<I", len(element)) + element


@lru_cache(maxsize=32)
def _base64(image: bytes) -> bytes:
    """Cached, since every call of a session carries the same images."""
    return base64.b64encode(image)


def _unpacked(raw: bytes) -> str:
    return raw[4:].decode()


def _is_final(response: Any) -> bool:
    return bool(response.parameters["triton_final_response"].bool_param)


def _chunk(response: Any) -> Chunk:
    raw = {
        output.name: content
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    reason = _unpacked(raw["finish_reason"])
    return Chunk(
        text=_unpacked(raw["text_output"]),
        tokens=struct.unpack_from("<I", raw["num_output_tokens"])[0],
        prompt_tokens=struct.unpack_from("<I", raw["num_input_tokens"])[0],
        finish_reason=None if reason == "None" else reason,
        logprobs=_logprobs(_unpacked(raw["logprobs"])) if "logprobs" in raw else (),
    )


def _logprobs(text: str) -> tuple[tuple[TokenLogprob, ...], ...]:
    """vLLM's form: for each token a map of token id to log-probability, rank and text."""
    places = json.loads(text) or []
    return tuple(
        tuple(
            sorted(
                (
                    TokenLogprob(int(token), found["decoded_token"] or "", float(found["logprob"]))
                    for token, found in place.items()
                ),
                key=lambda found: -found.logprob,
            )
        )
        for place in places
    )
