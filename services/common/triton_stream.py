"""One stream of Triton's: a generation, and an end of it that Triton survives.

Where a stream is cancelled in the very moment in which a response of its *first* request leaves, two threads
of Triton take the stream's lock and the request's in different orders, and wait for each other: no stream of
any model gets an answer again. (2.51, and as of 2.73 the code is the same: `ModelStreamInferHandler` holds
the first request's lock while it looks whether the stream was cancelled.) So streams are not cancelled where
the backend can be told otherwise: ours ends a generation on a request with `cancel`, and the stream comes to
its own end. vLLM's cannot. There the first request is one that Triton refuses, since a second request's lock
is not held; the price is some 28 KB of each cancelled stream that Triton never lets go of.
"""

import asyncio
from collections.abc import AsyncIterator
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

    Args:
        stub: of Triton's service.
        request: with an id of its own.
        cancels: whether the model's backend takes a request with `cancel`.
        seconds: deadline of the call.
    """

    def __init__(
        self, stub: Any, request: service_pb2.ModelInferRequest, cancels: bool, seconds: float
    ) -> None:
        self._request = request
        self._cancels = cancels
        # Whether the generation is to be cancelled; set when there is no more to come of it.
        self._over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._messages = asyncio.Queue[service_pb2.ModelStreamInferResponse | None](_MESSAGES)
        requests = self._requests() if cancels else (refused(request.model_name), request)
        self._call = stub.ModelStreamInfer(requests, timeout=seconds)
        # In a task of its own: gRPC cancels a call where a task that waits for its messages is cancelled.
        self.reading = asyncio.create_task(self._read(), name="triton-stream")
        """Until the stream has ended."""
        # An error is nobody's who has left.
        self.reading.add_done_callback(lambda reading: reading.cancelled() or reading.exception())

    async def __aiter__(self) -> AsyncIterator[service_pb2.ModelStreamInferResponse]:
        """The messages of the generation.

        Raises:
            grpc.aio.AioRpcError: the call fails.
        """
        while (message := await self._messages.get()) is not None:
            yield message
        await self.reading

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it but its status."""
        return self._over.done() or self.reading.done()

    def finish(self) -> None:
        """Lets it end by itself: its last message has come. A cancel would keep Triton from stopping."""
        self._over.set_result(False)

    def cancel(self) -> None:
        """Has the generation end."""
        self._over.set_result(True)
        while not self._messages.empty():
            self._messages.get_nowait()
        if self._cancels:
            waiting = asyncio.get_running_loop().call_later(END_SECONDS, self._call.cancel)
            self.reading.add_done_callback(lambda _: waiting.cancel())
        else:
            self._call.cancel()

    async def _read(self) -> None:
        try:
            # To the end, whoever listens: gRPC tells of it only behind the last message.
            async for message in self._call:
                if not self._over.done() and message.infer_response.id != _REFUSED:
                    await self._messages.put(message)
        finally:
            if not self._over.done():
                await self._messages.put(None)

    async def _requests(self) -> AsyncIterator[service_pb2.ModelInferRequest]:
        yield self._request
        if await self._over:
            cancel = service_pb2.ModelInferRequest(
                model_name=self._request.model_name,
                model_version=self._request.model_version,
                id=self._request.id,
            )
            for name, kind, value in (("text_input", "BYTES", bytes(4)), (CANCEL, "BOOL", b"\x01")):
                cancel.inputs.add(name=name, datatype=kind, shape=[1])
                cancel.raw_input_contents.append(value)
            yield cancel


def refused(model: str) -> service_pb2.ModelInferRequest:
    """A request that Triton refuses before it reaches the model: it lacks its data."""
    request = service_pb2.ModelInferRequest(model_name=model, id=_REFUSED)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1])
    return request
