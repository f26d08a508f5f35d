"""A fake of Triton's gRPC front, within the test's process: it says what a script tells it to."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc


@dataclass(slots=True)
class Seen:
    """One request as it arrived."""

    prompt: str
    images: int
    stream: bool
    parameters: dict[str, Any]
    version: str = ""


@dataclass(slots=True)
class Say:
    """One response: a piece of text (a token a piece), an error, or a wait before it."""

    text: str = ""
    reason: str | None = None
    error: str = ""
    wait: float = 0.0
    logprobs: list[dict[str, Any]] | None = None


@dataclass(slots=True)
class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """`script` gets each request and returns what is said to it.

    With `takes_cancel` it is one of our backends, which end a generation on a request; without, vLLM's.
    """

    script: Callable[[Seen], Iterable[Say]]
    takes_cancel: bool = True
    instances: int = 1
    heeds_cancel: bool = True
    seen: list[Seen] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    # A generation, be it by a request or with its stream; and a stream.
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    broken_off: asyncio.Event = field(default_factory=asyncio.Event)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=True)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        found = service_pb2.ModelConfigResponse()
        for name in ("text_input", *(("cancel",) if self.takes_cancel else ())):
            found.config.input.add(name=name)
        found.config.instance_group.add(count=self.instances)
        return found

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                if len(request.raw_input_contents) < len(request.inputs):
                    self.refused.append(request.model_version)
                    yield refused(request)
                    continue
                raw = dict(
                    zip((entry.name for entry in request.inputs), request.raw_input_contents, strict=True)
                )
                seen = Seen(
                    prompt=raw["text_input"][4:].decode(),
                    images=next((e.shape[0] for e in request.inputs if e.name == "image"), 0),
                    stream=raw["stream"] == b"\x01",
                    parameters=json.loads(raw["sampling_parameters"][4:]),
                    version=request.model_version,
                )
                self.seen.append(seen)
                self.asked.set()
                ended = asyncio.create_task(self._cancel(requests, request.id))
                for say in self.script(seen):
                    if say.wait:
                        await self._wait(ended, say.wait)
                    if self.heeds_cancel and ended.done() and ended.result():
                        yield _response(Say(error="CANCELLED: cancelled"), request.model_version)
                        break
                    yield _response(say, request.model_version)
                await ended
        except asyncio.CancelledError:
            self.broken_off.set()
            self.cancelled.set()
            raise

    async def _wait(self, ended: asyncio.Task[bool], seconds: float) -> None:
        said = self.takes_cancel and self.heeds_cancel
        # That no more is asked is no cancel.
        if not said or ((await asyncio.wait({ended}, timeout=seconds))[0] and not ended.result()):
            await asyncio.sleep(seconds)

    async def _cancel(self, requests: Any, name: str) -> bool:
        """Whether a request says so, once nothing more is asked."""
        async for request in requests:
            assert self.takes_cancel
            assert request.id == name
            assert [entry.name for entry in request.inputs] == ["text_input", "cancel"]
            if self.heeds_cancel:
                self.cancelled.set()
            return True
        return False


def refused(request: Any) -> Any:
    """What Triton says to a request without its inputs' data."""
    return service_pb2.ModelStreamInferResponse(
        error_message="unable to find data for an input tensor",
        infer_response=service_pb2.ModelInferResponse(id=request.id, model_name=request.model_name),
    )


def _response(say: Say, version: str) -> Any:
    if say.error:
        return service_pb2.ModelStreamInferResponse(error_message=say.error)
    response = service_pb2.ModelInferResponse(model_version=version or "1")
    outputs = {
        "text_output": _string(say.text),
        "finish_reason": _string(str(say.reason)),
        "num_output_tokens": struct.pack("<I", 1),
        "num_input_tokens": struct.pack("<I", 7),
    }
    if say.logprobs is not None:
        outputs["logprobs"] = _string(json.dumps(say.logprobs))
    for name, raw in outputs.items():
        response.outputs.add(name=name, datatype="BYTES", shape=[1])
        response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def _string(text: str) -> bytes:
    return struct.pack("<I", len(text.encode())) + text.encode()


@asynccontextmanager
async def serving(
    *adders: Callable[[grpc.aio.Server], None],
    credentials: grpc.ServerCredentials | None = None,
    make: Callable[..., grpc.aio.Server] = grpc.aio.server,
    **options: Any,
) -> AsyncIterator[str]:
    """A real gRPC server with the given services; yields its address."""
    server = make(**options)
    for add in adders:
        add(server)
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def serving_triton(
    script: Callable[[Seen], Iterable[Say]], takes_cancel: bool = True
) -> AsyncIterator[tuple[FakeTriton, str]]:
    """A fake Triton and its address."""
    fake = FakeTriton(script, takes_cancel)

    def add(server: grpc.aio.Server) -> None:
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)

    async with serving(add) as address:
        yield fake, address
