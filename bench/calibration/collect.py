"""Candidates of many questions, labelled."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.calibration.candidates import Candidate, walk
from bench.calibration.labels import Rollouts, by_steps
from bench.questions import Question
from dreamr.client import AsyncClient
from services.gateway.rule import Rule

LabelBy = Literal["steps", "rollouts"]


@dataclass(frozen=True, slots=True)
class Collected:
    """What became of the questions.

    Attributes:
        questions: with the target's own answer where the file had none.
        labelled_by: of those with candidates, by what.
        self_labelled: questions whose answer is the target's own.
        failed: questions left out of the labels by rollouts, since the target alone answers them wrongly.
        degraded: sessions in which a part failed.
    """

    questions: list[Question]
    candidates: list[Candidate]
    labelled_by: dict[LabelBy, int]
    self_labelled: int
    failed: int
    degraded: int


async def collect(
    client: AsyncClient,
    questions: Sequence[Question],
    *,
    rule: Rule,
    rollouts: Rollouts,
    only_rollouts: bool,
    concurrency: int,
    on_question: Callable[[], None],
) -> Collected:
    """Walks every question, so many at a time, and labels its candidates.

    Args:
        only_rollouts: also where a question has its steps.
        on_question: told after each.
    """
    places = asyncio.Semaphore(concurrency)

    async def work(number: int, question: Question) -> tuple[Question, list[Candidate], bool, bool]:
        async with places:
            walked = await walk(client, number, question, rule)
            if question.answer is None:
                question = replace(question, answer=walked.answer)
            failed = False
            if question.steps and not only_rollouts:
                labels = [by_steps(question, one) for one in walked.candidates]
            elif failed := not question.is_right(walked.answer):
                labels = [None] * len(walked.candidates)
            else:
                labels = [await rollouts.label(client, question, one) for one in walked.candidates]
            on_question()
        pairs = zip(walked.candidates, labels, strict=True)
        return question, [one.labelled(right) for one, right in pairs], failed, walked.degraded

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(number, one)) for number, one in enumerate(questions)]
    done = [task.result() for task in tasks]
    exact = sum(bool(question.steps) and not only_rollouts for question in questions)
    by: dict[LabelBy, int] = {"steps": exact, "rollouts": len(questions) - exact}
    return Collected(
        questions=[question for question, *_ in done],
        candidates=[one for _, candidates, *_ in done for one in candidates],
        labelled_by={name: count for name, count in by.items() if count},
        self_labelled=sum(question.answer is None for question in questions),
        failed=sum(failed for *_, failed, _ in done),
        degraded=sum(degraded for *_, degraded in done),
    )
