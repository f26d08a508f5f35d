"""Verdicts on rollouts' steps, by the live verifier service."""

import asyncio
from collections.abc import Sequence

import grpc

from dreamr.v1 import common_pb2, verifier_pb2, verifier_pb2_grpc
from services.common.errors import BrokenError, ServiceError, from_rpc
from training.sapo.questions import Question
from training.sapo.rollout import Rollout

ATTEMPTS = 5
PAUSE_SECONDS = 0.2
_PASSING = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
# No verdicts on the step: to learn from them would be to learn from the cluster's load.
_NO_VERDICT = {common_pb2.VERDICT_REASON_LATE, common_pb2.VERDICT_REASON_UNAVAILABLE}


class Judge:
    """Asks the verifier, so many calls at a time.

    Args:
        verifier: a stub of its service.
        alpha: what scores are compared with; None as the pair has it.
        at_once: calls in flight at most.
        seconds: that one call may take.
    """

    def __init__(
        self,
        verifier: "verifier_pb2_grpc.VerifierServiceAsyncStub",
        *,
        alpha: float | None,
        at_once: int,
        seconds: float = 30.0,
    ) -> None:
        self._verifier = verifier
        self._alpha = alpha
        self._places = asyncio.Semaphore(at_once)
        self._seconds = seconds

    async def accepted(self, questions: Sequence[Question], rollouts: Sequence[Rollout]) -> list[int]:
        """How many steps of each rollout are accepted in a row, from the first one.

        A step that several rollouts of a question write behind the same steps is judged once.

        Raises:
            ServiceError: the verifier refuses, or gives no verdict in several attempts.
        """
        asked: dict[tuple[Question, tuple[str, ...], str, bool], asyncio.Task[bool]] = {}

        async def run(question: Question, rollout: Rollout) -> int:
            texts = tuple(step.text for step in rollout.steps)
            for index, step in enumerate(rollout.steps):
                # Cut off: the verifier would say no without a look.
                if step.truncated:
                    return index
                place = (question, texts[:index], step.text, step.closes)
                if place not in asked:
                    asked[place] = group.create_task(self._judge(question, texts[:index], step))
                if not await asked[place]:
                    return index
            return len(rollout.steps)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(*one)) for one in zip(questions, rollouts, strict=True)]
        except* ServiceError as failed:
            # Where one call fails so do most: the first says it all.
            first = failed.exceptions[0]
            raise first from None
        return [task.result() for task in tasks]

    async def _judge(self, question: Question, steps: Sequence[str], step: common_pb2.Step) -> bool:
        request = verifier_pb2.VerifyRequest(
            context=common_pb2.Context(
                session_id="sapo",
                question=question.text,
                images=[common_pb2.Image(data=image) for image in question.images],
                steps=steps,
            ),
            candidate=step,
            alpha=self._alpha,
        )
        async with self._places:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    response = await self._verifier.Verify(request, timeout=self._seconds)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _PASSING or attempt == ATTEMPTS:
                        raise from_rpc(error, "verifier") from error
                else:
                    if response.verdict.reason not in _NO_VERDICT:
                        return response.verdict.accept
                await asyncio.sleep(PAUSE_SECONDS * 2**attempt)
        raise BrokenError(f"verifier: no verdict in {ATTEMPTS} attempts; is the target overloaded?")
