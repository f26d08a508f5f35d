"""Calls of a Triton model with the vLLM backend's tensors: plain arguments in, plain values out."""

import asyncio
import base64
import io
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpcclient
from PIL import Image
from tritonclient.grpc import InferInput

RETURNS = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
DEADLINE = 60.0


class ModelError(Exception):
    """An error that the model answered with: the name of a gRPC status, and the message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(slots=True)
class Answer:
    """All responses of one request."""

    texts: list[str] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def finish_reason(self) -> str:
        return str(self.outputs[-1]["finish_reason"])

    @property
    def logprobs(self) -> list[dict[int, dict[str, Any]]]:
        found = [json.loads(output["logprobs"]) or [] for output in self.outputs]
        return [{int(token): entry for token, entry in one.items()} for part in found for one in part]

    @property
    def tokens(self) -> int:
        return sum(int(output["num_output_tokens"]) for output in self.outputs)


def picture(shade: int, side: int = 32, kind: str = "PNG") -> bytes:
    """An image that differs by shade, encoded."""
    data = io.BytesIO()
    pixels = np.add.outer(np.arange(side) * shade, np.arange(side) * 5) % 256
    Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(data, kind)
    return data.getvalue()


def _tensor(name: str, values: Sequence[Any]) -> InferInput:
    strings = isinstance(values[0], bytes)
    array = np.array(values, dtype=np.object_ if strings else np.bool_)
    tensor = InferInput(name, list(array.shape), "BYTES" if strings else "BOOL")
    tensor.set_data_from_numpy(array)
    return tensor


class Caller:
    """A client of one Triton server."""

    def __init__(self, address: str, metrics: str) -> None:
        self.client = grpcclient.InferenceServerClient(address)
        self._metrics = metrics

    async def generate(
        self,
        model: str,
        text: str,
        images: Sequence[bytes] = (),
        *,
        stream: bool = False,
        encoded_images: Sequence[bytes] | None = None,
        exclude_input: bool | None = True,
        returns: Sequence[str] = RETURNS,
        parameters: str | None = None,
        on_response: Callable[[Answer], Awaitable[None]] | None = None,
        **params: Any,
    ) -> Answer:
        """One request from start to end, cancelled with its task; raises ModelError."""
        encoded = [base64.b64encode(image) for image in images] if encoded_images is None else encoded_images
        inputs = [_tensor("text_input", [text.encode()]), _tensor("stream", [stream])]
        inputs.append(_tensor("sampling_parameters", [(parameters or json.dumps(params)).encode()]))
        inputs += [_tensor(f"return_{name}", [True]) for name in returns]
        if encoded:
            inputs.append(_tensor("image", encoded))
        if exclude_input is not None:
            inputs.append(_tensor("exclude_input_in_output", [exclude_input]))

        async def one() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": model, "inputs": inputs, "enable_empty_final_response": True}

        answer = Answer()
        call = self.client.stream_infer(one())
        try:
            async with asyncio.timeout(DEADLINE):
                async for result, error in call:
                    if error is not None:
                        code, _, message = str(error).partition(": ")
                        raise ModelError(code, message)
                    response = result.get_response()
                    values = {
                        entry.name: result.as_numpy(entry.name).reshape(-1)[0] for entry in response.outputs
                    }
                    if values:
                        plain = {
                            k: v.decode() if isinstance(v, bytes) else v.item() for k, v in values.items()
                        }
                        answer.texts.append(plain.pop("text_output"))
                        answer.outputs.append(plain)
                    if on_response is not None:
                        await on_response(answer)
        finally:
            # Without effect on a stream that was read to its end.
            call.cancel()
        return answer

    async def metric(self, name: str, model: str) -> float:
        """The value of one of the backend's metrics."""
        text = await asyncio.to_thread(self._read_metrics)
        start = f'transformers:{name}{{model="{model}",'
        return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))

    def _read_metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as response:
            return str(response.read().decode())

    async def until(
        self, name: str, model: str, wanted: Callable[[float], bool], seconds: float = 5.0
    ) -> float:
        """Wait until a metric is as wanted; its value."""
        async with asyncio.timeout(seconds):
            while not wanted(value := await self.metric(name, model)):  # noqa: ASYNC110 - in another process
                await asyncio.sleep(0.02)
        return value

    async def close(self) -> None:
        await self.client.close()
