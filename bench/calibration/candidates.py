"""The draft's own steps behind the target's, with the judge's scores: what an alpha is chosen by."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from bench.questions import Question
from bench.variant import Variant
from dreamr.client import AsyncClient
from dreamr.events import Activity, Answer, Commit
from services.gateway.policy import SPECREASON
from services.gateway.rule import Rule

SECONDS = 600.0
"""That one session may take; beyond it something is stuck."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A drafted step that was judged.

    Attributes:
        question: its place in the file, from 0.
        prefix: the committed steps before it.
        score: of the judge; None where it had none, and the step is rejected at any alpha.
        reason: of the verdict.
        own: the target wrote the same step for the position.
        right: None until it is labelled, or where that cannot be told.
    """

    question: int
    index: int
    prefix: tuple[str, ...]
    text: str
    closes: bool
    score: float | None
    reason: str
    own: bool
    right: bool | None = None

    def labelled(self, right: bool | None) -> "Candidate":
        """The same with its label."""
        return replace(self, right=right)


@dataclass(frozen=True, slots=True)
class Walk:
    """One question, with a candidate for each position of the target's reasoning."""

    candidates: tuple[Candidate, ...]
    answer: str
    degraded: bool


async def walk(client: AsyncClient, number: int, question: Question, rule: Rule) -> Walk:
    """Reasons with the target, and has the draft write a candidate for each position, judged by `rule`.

    No score is above an alpha of 1, so every candidate is rejected and the target's own step is committed:
    candidates stand behind what the target wrote, one a position, also where the ones before were wrong. One
    thing comes after the other ("specreason"): no rival can cut a verdict short.
    """
    stream = client.reason(
        question.text,
        images=question.images,
        **Variant(SPECREASON.name, rule, alpha=1.0).options(),
        governor=False,
        activity=True,
        timeout=SECONDS,
    )
    async with aclosing(stream) as happened:
        events = [event async for event in happened]
    drafted = {
        event.index: event
        for event in events
        if isinstance(event, Activity) and (event.part, event.phase) == ("draft", "step")
    }
    answer = Answer.of(events)
    found = [
        _candidate(number, commit, drafted[commit.index], answer.steps[: commit.index])
        for commit in answer.steps
        if commit.verdict and commit.index in drafted
    ]
    return Walk(tuple(found), answer.answer, bool(answer.degraded))


def _candidate(number: int, commit: Commit, drafted: Activity, before: Sequence[Commit]) -> Candidate:
    verdict = commit.verdict
    assert verdict
    return Candidate(
        question=number,
        index=commit.index,
        prefix=tuple(step.text for step in before),
        text=drafted.text,
        closes=drafted.closes,
        score=verdict.score if verdict.reason == "score" else None,
        reason=verdict.reason,
        own=(commit.text, commit.closes) == (drafted.text, drafted.closes),
    )
