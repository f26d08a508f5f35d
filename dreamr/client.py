"""The async client."""

import asyncio
import io
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import grpc

from dreamr import events
from dreamr.errors import from_rpc
from dreamr.tls import Tls
from dreamr.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc

if TYPE_CHECKING:
    from PIL.Image import Image

_MAX_MESSAGE_BYTES = 256 << 20


class AsyncClient:
    """A connection to a gateway; use it as `async with`. One client serves many questions at once.

    Args:
        address: `HOST:PORT`.
        timeout: seconds that a question may take unless told otherwise.
        tls: how to verify the gateway and what to show it; None for a gateway without TLS.

    Raises:
        TlsError: a file of `tls` cannot be used.
    """

    def __init__(self, address: str, *, timeout: float = 120.0, tls: Tls | None = None) -> None:
        self._timeout = timeout
        # The gateway's limit on sizes decides, not the client's.
        options = [
            ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ]
        self._channel = (
            tls.open_channel(address, "gateway", options)
            if tls
            else grpc.aio.insecure_channel(address, options=options)
        )
        self._stub: gateway_pb2_grpc.ReasoningServiceAsyncStub = gateway_pb2_grpc.ReasoningServiceStub(
            self._channel
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; questions under way are cancelled."""
        await self._channel.close()

    async def reason(
        self,
        question: str,
        *,
        images: "Iterable[str | PathLike[str] | bytes | Image]" = (),
        policy: str = "fpsr",
        window: int | None = None,
        alpha: float | None = None,
        max_steps: int | None = None,
        max_step_tokens: int | None = None,
        max_answer_tokens: int | None = None,
        max_reasoning_tokens: int | None = None,
        max_repeats: int | None = None,
        width: int | None = None,
        first_on_target: int | None = None,
        answer_by: Literal["target", "draft"] = "target",
        governor: bool | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        activity: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[events.Event, None]:
        """Asks, and yields what happens: `Started`, each `Commit`, `Finished` (and `Activity` if wanted).

        Closing the iterator cancels the session everywhere; so does cancelling the task. Break out of it
        only within `contextlib.aclosing`.

        Args:
            images: paths, encoded bytes or PIL images.
            policy: "fpsr", "target" (the target alone), "specreason", "lookahead" or "exact".
            window: candidates in a row that may be in flight, 1 to 16.
            alpha: what a candidate's score is compared with, 0 to 1.
            width: candidates for the frontier by several draft workers at once, 1 to 8.
            first_on_target: steps at the start that the target writes alone.
            answer_by: who writes the answer behind the reasoning.
            governor: whether speculation may be lowered where it does not pay; None as the policy has it.
            max_reasoning_tokens: tokens of the committed steps, after which the answer is written.
            max_repeats: how often one step may be committed before the answer is written.
            timeout: seconds; the client's own by default.

        Raises:
            DreamrError: see `dreamr.errors`.
            OSError: an image cannot be read.
        """
        options = gateway_pb2.ReasonOptions(
            policy=policy,
            window=window,
            alpha=alpha,
            max_steps=max_steps,
            max_step_tokens=max_step_tokens,
            max_answer_tokens=max_answer_tokens,
            max_reasoning_tokens=max_reasoning_tokens,
            max_repeats=max_repeats,
            width=width,
            first_on_target=first_on_target,
            answer_by=gateway_pb2.AUTHOR_DRAFT if answer_by == "draft" else gateway_pb2.AUTHOR_TARGET,
            governor=governor,
            sampling=common_pb2.Sampling(temperature=temperature, seed=seed),
            activity=activity,
        )
        request = gateway_pb2.ReasonRequest(
            question=question,
            images=[common_pb2.Image(data=await asyncio.to_thread(_read, image)) for image in images],
            options=options,
        )
        call = self._stub.Reason(request, timeout=self._timeout if timeout is None else timeout)
        try:
            async for response in call:
                if event := events.from_proto(response):
                    yield event
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
        finally:
            call.cancel()

    async def ask(
        self,
        question: str,
        *,
        images: "Iterable[str | PathLike[str] | bytes | Image]" = (),
        policy: str = "fpsr",
        window: int | None = None,
        alpha: float | None = None,
        timeout: float | None = None,
    ) -> events.Answer:
        """Asks and waits for the whole answer; arguments and errors are those of `reason`."""
        stream = self.reason(
            question, images=images, policy=policy, window=window, alpha=alpha, timeout=timeout
        )
        async with aclosing(stream) as happened:
            return events.Answer.of([event async for event in happened])


def _read(image: "str | PathLike[str] | bytes | Image") -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | PathLike):
        return Path(image).read_bytes()
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
