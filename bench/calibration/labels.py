"""Whether a candidate is right: by the only right wording, or by where the target gets from it."""

from contextlib import aclosing
from dataclasses import dataclass

from bench.calibration.candidates import SECONDS, Candidate
from bench.questions import Question
from dreamr.client import AsyncClient
from dreamr.errors import InvalidRequestError
from dreamr.events import Answer


def by_steps(question: Question, candidate: Candidate) -> bool | None:
    """By the question's own steps: right is the same step, word for word, closing where it is the last.

    None behind a prefix that is itself not right: from there on the steps say nothing.
    """
    steps, index = question.steps, candidate.index
    if index >= len(steps) or candidate.prefix != steps[:index]:
        return None
    return candidate.text == steps[index] and candidate.closes == (index == len(steps) - 1)


@dataclass(frozen=True, slots=True)
class Rollouts:
    """By what the step leads to, after Math-Shepherd (arXiv 2312.08935), with the target as the completer.

    The target reasons on from the step to an answer; the step is right if at least half of the answers are.
    (Math-Shepherd's hard label asks for one of them; a target that mends a wrong step now and then would make
    it a right one.) A single rollout is greedy, several are drawn.

    Attributes:
        count: rollouts a candidate.
        temperature: of several.
    """

    count: int
    temperature: float

    async def label(self, client: AsyncClient, question: Question, candidate: Candidate) -> bool:
        """Of a candidate on the way to a right answer.

        The target's own step needs no rollout: the walk itself is one, and its answer is right.
        """
        if candidate.own:
            return True
        if candidate.reason == "truncated":
            return False
        right = 0
        for number in range(self.count):
            right += await self._right(client, question, candidate, number)
        return 2 * right >= self.count

    async def _right(
        self, client: AsyncClient, question: Question, candidate: Candidate, number: int
    ) -> bool:
        drawn = self.count > 1
        stream = client.reason(
            question.text,
            images=question.images,
            policy="target",
            steps=[*candidate.prefix, *([candidate.text] if candidate.text else [])],
            closed=candidate.closes,
            temperature=self.temperature if drawn else 0.0,
            seed=number if drawn else None,
            timeout=SECONDS,
        )
        try:
            async with aclosing(stream) as happened:
                answer = Answer.of([event async for event in happened])
        except InvalidRequestError:
            # Such as a step behind which the target's context is full: it leads nowhere.
            return False
        return question.is_right(answer.answer)
