"""One stream of Triton's: a generation, and an end of it that Triton survives.

Where a stream is cancelled in the very moment in which a response of its *first* request leaves, two threads
of Triton take the stream's lock and the request's in different orders, and wait for each other: no stream of
any model gets an answer again. (2.51, and as of 2.73 the code is the same: `ModelStreamInferHandler` holds
the first request's lock while it looks whether the stream was cancelled.) A second request's lock is not
held, so the first is one that Triton refuses before it reaches a model. But of such a stream, if cancelled,
Triton never lets go of some 28 KB. So a generation is ended by a request with `cancel`, where the backend
takes it as ours does, and its stream comes to its own end. Only deadlines, vLLM's backend, models of several
instances (Triton gives a request to any of them) and what is out of reach are left to be cancelled.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from tritonclient.grpc import service_pb2

CANCEL = "cancel"
"""The input by which our backends end a generation."""
# Not read ahead of the caller.
_MESSAGES = 16
_REFUSED = "refused"
# How long a cancelled generation may take to end before the stream is cancelled after all.
END_SECONDS = 1.0


class TritonStream:
    """One generation. Iterate over the messages; then `finish` or `cancel`, and hold it until it has ended.

    No asynchronous generators: one that a task of gRPC's waits in cannot be closed when the loop ends.

    Args:
        stub: of Triton's service.
        request: with an id of its own.
        cancels: whether a request with `cancel` ends the generation.
        seconds: deadline of the call.
    """

    def __init__(
        self, stub: Any, request: service_pb2.ModelInferRequest, cancels: bool, seconds: float
    ) -> None:
        # No more is to come of it.
        self._over = False
        self._messages = asyncio.Queue[service_pb2.ModelStreamInferResponse | None](_MESSAGES)
        begun = (refused(request.model_name, request.model_version), request)
        self._requests = _Requests(begun) if cancels else None
        self._call = stub.ModelStreamInfer(self._requests or begun, timeout=seconds)
        # In a task of its own: gRPC cancels a call where a task that waits for its messages is cancelled.
        self.reading = asyncio.create_task(self._read(), name="triton-stream")
        """Until the stream has ended."""
        # An error is nobody's who has left.
        self.reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())

    def __aiter__(self) -> "TritonStream":
        return self

    async def __anext__(self) -> service_pb2.ModelStreamInferResponse:
        """The next message of the generation.

        Raises:
            grpc.aio.AioRpcError: the call fails.
        """
        if (message := await self._messages.get()) is None:
            await self.reading
            raise StopAsyncIteration
        return message

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it but its status."""
        return self._over or self.reading.done()

    def finish(self) -> None:
        """Lets it end by itself: its last message has come. A cancel would keep Triton from stopping."""
        self._over = True
        if self._requests:
            self._requests.end()

    def cancel(self) -> None:
        """Has the generation end."""
        self._over = True
        # The reader may wait for room.
        while not self._messages.empty():
            self._messages.get_nowait()
        if self._requests:
            self._requests.cancel()
            waiting = asyncio.get_running_loop().call_later(END_SECONDS, self._call.cancel)
            self.reading.add_done_callback(lambda _: waiting.cancel())
        else:
            self._call.cancel()

    async def _read(self) -> None:
        try:
            # To the end, whoever listens: gRPC tells of it only behind the last message.
            async for message in self._call:
                if not self._over and message.infer_response.id != _REFUSED:
                    await self._messages.put(message)
        finally:
            if self._requests:
                # Of a call that broke off: gRPC's task would wait on.
                self._requests.end()
            if not self._over:
                await self._messages.put(None)


class _Requests:
    """What is asked on a stream: a generation, and perhaps its end; until then its sending side is open."""

    def __init__(self, begun: Sequence[service_pb2.ModelInferRequest]) -> None:
        self._waiting = deque(begun)
        self._last = begun[-1]
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Nothing more is asked."""
        self._ended.set()

    def cancel(self) -> None:
        """Only that the generation end."""
        asked = self._last
        cancel = service_pb2.ModelInferRequest(
            model_name=asked.model_name, model_version=asked.model_version, id=asked.id
        )
        for name, kind, value in (("text_input", "BYTES", bytes(4)), (CANCEL, "BOOL", b"\x01")):
            cancel.inputs.add(name=name, datatype=kind, shape=[1])
            cancel.raw_input_contents.append(value)
        self._waiting.append(cancel)
        self.end()

    def __aiter__(self) -> "_Requests":
        return self

    async def __anext__(self) -> service_pb2.ModelInferRequest:
        if not self._waiting:
            await self._ended.wait()
        if not self._waiting:
            raise StopAsyncIteration
        return self._waiting.popleft()


def refused(model: str, version: str = "") -> service_pb2.ModelInferRequest:
    """A request that Triton refuses before it reaches the model: it lacks its data.

    Args:
        version: that of the stream's other requests. Triton writes two responses at once, and aborts, where
            it knows the one request's version and not the other's.
    """
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version, id=_REFUSED)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    return request
