"""Asks both models of a running pair one question each, and the verifier for one verdict."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from PIL import Image

from dreamr import errors
from dreamr.v1 import (
    common_pb2,
    completion_pb2,
    completion_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)

QUESTION, STEP = "What is 17 plus 25? Think step by step.", "17 plus 25 is 42."
TOKENS = 64
SECONDS = 120.0
"""Deadline of each call; a large model's first one takes long."""
NOT_FASTER = 1.1
"""A ratio below this is within what one question tells."""
# 1 x 1 pixel would be too small for some image processors.
_IMAGE_SIDE = 64


@dataclass(frozen=True, slots=True)
class Said:
    """What one model wrote, and its pace once it had begun."""

    text: str
    tokens: int
    first_seconds: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Probe:
    """What the pair's models did."""

    target: Said
    draft: Said
    verdict: common_pb2.Verdict

    @property
    def ratio(self) -> float:
        """How many times as fast as the target the draft writes; 0 where one of them wrote nothing."""
        if not (self.target.tokens and self.draft.tokens):
            return 0.0
        return self.draft.tokens_per_second / self.target.tokens_per_second

    def warnings(self) -> list[str]:
        """What makes the pair slow or useless."""
        found = [
            f"the {role} ends its turn at once, and writes nothing: is this its own chat template?"
            for role, said in (("target", self.target), ("draft", self.draft))
            if not said.tokens
        ]
        if not found and self.ratio < NOT_FASTER:
            found.append(
                f"the draft is not faster than the target ({self.ratio:.2f} times): drafting costs more than "
                "it saves; take a smaller draft"
            )
        reason = self.verdict.reason
        if reason == common_pb2.VERDICT_REASON_LOW_MASS:
            found.append(
                f"the target said neither of the judge's words (mass {self.verdict.mass:.3f}): every "
                "candidate would be rejected; try another instruction or other words in [tbvm]"
            )
        elif reason != common_pb2.VERDICT_REASON_SCORE:
            name = common_pb2.VerdictReason.Name(reason).removeprefix("VERDICT_REASON_").lower()
            found.append(f"the verifier came to no score ({name})")
        return found


async def probe(addresses: Mapping[str, str], images: int) -> Probe:
    """Asks one after the other, so that none slows another down; of two rounds the faster one counts.

    Args:
        addresses: HOST:PORT of the services draft, target and verifier.
        images: that each question has, the same grey one.

    Raises:
        DreamrError: a service or its model does not answer as it should.
    """
    try:
        return await _probe(addresses, images)
    except grpc.aio.AioRpcError as error:
        raise errors.from_rpc(error) from error


async def _probe(addresses: Mapping[str, str], images: int) -> Probe:
    given = [common_pb2.Image(data=_image())] * images
    said: dict[str, list[Said]] = {"target": [], "draft": []}
    for role in ("target", "draft") * 2:
        async with grpc.aio.insecure_channel(addresses[role]) as channel:
            said[role].append(await _ask(completion_pb2_grpc.CompletionServiceStub(channel), given))
    target, draft = (max(found, key=lambda one: one.tokens_per_second) for found in said.values())
    async with grpc.aio.insecure_channel(addresses["verifier"]) as channel:
        context = common_pb2.Context(session_id="probe", question=QUESTION, images=given)
        request = verifier_pb2.VerifyRequest(context=context, candidate=common_pb2.Step(text=STEP, tokens=1))
        verified = await verifier_pb2_grpc.VerifierServiceStub(channel).Verify(request, timeout=SECONDS)
    return Probe(target, draft, verified.verdict)


async def _ask(
    stub: "completion_pb2_grpc.CompletionServiceAsyncStub", images: list[common_pb2.Image]
) -> Said:
    part = completion_pb2.ChatMessage.Part
    message = completion_pb2.ChatMessage(
        role=completion_pb2.CHAT_ROLE_USER,
        parts=[*(part(image=image) for image in images), part(text=QUESTION)],
    )
    request = completion_pb2.CompleteRequest(messages=[message], max_tokens=TOKENS)
    text, tokens = "", 0
    first_tokens, started = 0, time.perf_counter()
    first = started
    async for response in stub.Complete(request, timeout=SECONDS):
        if first == started:
            first, first_tokens = time.perf_counter(), response.tokens
        text, tokens = text + response.text, tokens + response.tokens
    ended = time.perf_counter()
    # One that ends with its first piece is timed as a whole.
    count, since = (tokens - first_tokens, first) if tokens > first_tokens else (tokens, started)
    return Said(text, tokens, first - started, count / max(ended - since, 1e-6))


def _image() -> bytes:
    """A grey square, as PNG."""
    buffer = io.BytesIO()
    Image.new("RGB", (_IMAGE_SIDE, _IMAGE_SIDE), "grey").save(buffer, "PNG")
    return buffer.getvalue()
