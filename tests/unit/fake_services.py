"""A fake of the draft, target and verifier services, within the test's process, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from dreamr.v1 import (
    common_pb2,
    completion_pb2,
    completion_pb2_grpc,
    draft_pb2,
    draft_pb2_grpc,
    target_pb2,
    target_pb2_grpc,
    verifier_pb2,
    verifier_pb2_grpc,
)

STEPS = ("one .", "two .", "three .")


@dataclass(slots=True)
class FakeServices(
    draft_pb2_grpc.DraftServiceServicer,
    target_pb2_grpc.TargetServiceServicer,
    verifier_pb2_grpc.VerifierServiceServicer,
    completion_pb2_grpc.CompletionServiceServicer,
):
    """Draft and target agree on `steps`, and the verifier with them. Delays in seconds.

    Attributes:
        rival_delay: of the target's own step beside a candidate, which is far behind its verdict even where
            the machine is busy; `target_delay` where it reasons alone.
        failures: statuses that a method answers with, in turn, before it works again.
        breaks: positions in the middle of which `Generate` fails, once each.
        truncated: positions whose steps are longer than they may be.
        cancelled: methods whose call was cancelled from outside.
        running: calls under way.
        requests: what each method was asked.
    """

    steps: tuple[str, ...] = STEPS
    delay: float = 0.001
    target_delay: float = 0.02
    rival_delay: float = 0.3
    failures: dict[str, list[grpc.StatusCode]] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    truncated: tuple[int, ...] = ()
    cancelled: list[str] = field(default_factory=list)
    running: int = 0
    calls: int = 0
    seconds_left: list[float] = field(default_factory=list)
    requests: dict[str, list[Any]] = field(default_factory=dict)

    async def Draft(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """See the proto."""
        with self._call("Draft", request, context):
            await self._fail("Draft", context)
            first = self._first(request.context)
            for index in range(first, min(first + request.max_steps, len(self.steps))):
                await asyncio.sleep(self.delay)
                step = self._step(index)
                if request.logprobs:
                    step.mean_logprob, step.min_logprob = -0.25, -0.5
                yield draft_pb2.DraftResponse(step=step, usage={"prompt_tokens": 7 + 5 * index})

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """See the proto."""
        with self._call("Generate", request, context):
            await self._fail("Generate", context)
            first = self._first(request.context)
            seconds = max(self.target_delay, self.rival_delay if request.max_steps == 1 else 0)
            for index in range(first, min(first + (request.max_steps or 99), len(self.steps))):
                yield target_pb2.GenerateResponse(progress={"tokens": 1})
                await asyncio.sleep(seconds)
                if index in self.breaks:
                    self.breaks.remove(index)
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "killed in the middle of a step")
                usage = common_pb2.Usage(prompt_tokens=7 + 5 * index)
                written = target_pb2.GenerateResponse.WrittenStep(step=self._step(index), usage=usage)
                yield target_pb2.GenerateResponse(written=written)

    async def Answer(self, request: Any, context: Any) -> Any:
        """See the protos: draft and target have it both."""
        by_draft = isinstance(request, draft_pb2.DraftServiceAnswerRequest)
        method = "DraftAnswer" if by_draft else "Answer"
        with self._call(method, request, context):
            await self._fail(method, context)
            response = draft_pb2.DraftServiceAnswerResponse if by_draft else target_pb2.AnswerResponse
            return response(text="42", usage=common_pb2.Usage(output_tokens=1))

    async def Verify(self, request: Any, context: Any) -> Any:
        """See the proto."""
        with self._call("Verify", request, context):
            await self._fail("Verify", context)
            await asyncio.sleep(self.delay)
            verdict = common_pb2.Verdict(
                accept=True, reason=common_pb2.VERDICT_REASON_SCORE, score=0.9, alpha=request.alpha, mass=1
            )
            return verifier_pb2.VerifyResponse(verdict=verdict)

    async def Score(self, request: Any, context: Any) -> Any:
        """The gateway never asks for it."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "the gateway scores nothing")

    async def Complete(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """See the proto: one word a token, each as likely as not."""
        with self._call("Complete", request, context):
            await self._fail("Complete", context)
            words = self.steps[: request.max_tokens or None]
            for index, word in enumerate(words):
                await asyncio.sleep(self.target_delay)
                token = completion_pb2.TokenLogprob(id=index, text=word, logprob=-0.5)
                other = completion_pb2.TokenLogprob(id=99, text="é", logprob=-1.5)
                places = [completion_pb2.TokenPlace(token=token, top=[token, other][: request.top_logprobs])]
                response = completion_pb2.CompleteResponse(text=word, tokens=1)
                if request.HasField("top_logprobs"):
                    response.places.extend(places)
                if index == len(words) - 1:
                    response.truncated = len(words) < len(self.steps)
                    response.usage.prompt_tokens, response.usage.output_tokens = 7, len(words)
                yield response

    @contextmanager
    def _call(self, method: str, request: Any, context: Any) -> Iterator[None]:
        self.calls += 1
        self.requests.setdefault(method, []).append(request)
        self.running += 1
        self.seconds_left.append(context.time_remaining())
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(method)
            raise
        finally:
            self.running -= 1

    async def _fail(self, method: str, context: Any) -> None:
        if statuses := self.failures.get(method):
            await context.abort(statuses.pop(0), f"{method} says no")

    def _first(self, context: common_pb2.Context) -> int:
        # Behind more than it has to say, it closes.
        return min(len(context.steps), len(self.steps) - 1)

    def _step(self, index: int) -> common_pb2.Step:
        return common_pb2.Step(
            text=self.steps[index],
            tokens=5,
            closes=index == len(self.steps) - 1,
            truncated=index in self.truncated,
        )

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds the services to a server."""
        completion_pb2_grpc.add_CompletionServiceServicer_to_server(self, server)
        draft_pb2_grpc.add_DraftServiceServicer_to_server(self, server)
        target_pb2_grpc.add_TargetServiceServicer_to_server(self, server)
        verifier_pb2_grpc.add_VerifierServiceServicer_to_server(self, server)


def busy() -> FakeServices:
    """What keeps a session busy for as long as a test likes: a slow target, and no draft."""
    return FakeServices(target_delay=30, failures={"Draft": [grpc.StatusCode.INTERNAL] * 9})


@asynccontextmanager
async def idle(fake: FakeServices, seconds: float = 2.0) -> AsyncIterator[None]:
    """After its body, every call to the fake must end within `seconds`."""
    yield
    async with asyncio.timeout(seconds):
        while fake.running:  # noqa: ASYNC110 - the other side of a socket
            await asyncio.sleep(0.005)
