"""A draft against the target, through the whole cluster, and which checkpoint is the best."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from bench.questions import cold
from bench.statistics import Estimate, difference_of_means, ratio_of_means
from dreamr.client import AsyncClient
from dreamr.events import Answer
from training.sapo.questions import Question
from training.sapo.settings import SapoSettings

POLICIES = ("target", "fpsr")
# The governor would hide a draft that does not pay behind the target alone.
GOVERNED = {"target": None, "fpsr": False}
SECONDS = 120.0
"""Of one answer."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`fpsr` with a draft, against `target`, on the same questions in one run.

    Attributes:
        step: updates that the draft has had.
        accuracy: share of right answers, by policy.
        difference: accuracy of `fpsr` minus that of `target`.
        speedup: mean seconds of `target` over those of `fpsr`.
        acceptance: of the steps that were judged.
        tokens: of committed steps, an answer, by policy.
        seconds: mean, by policy.
    """

    step: int
    questions: int
    accuracy: dict[str, float]
    difference: Estimate
    speedup: Estimate
    acceptance: float
    tokens: dict[str, float]
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Evaluation":
        """What `as_json` wrote."""
        estimates = {
            name: Estimate(fields[name]["value"], (ci[0], ci[1]) if (ci := fields[name]["ci95"]) else None)
            for name in ("difference", "speedup")
        }
        return cls(**{**fields, **estimates})


async def evaluate(client: AsyncClient, questions: Sequence[Question], step: int, seed: int) -> Evaluation:
    """Asks one question after the other, under both policies in an order drawn anew, so that drift hits both.

    Neither finds the other's images in a cache: see `bench.questions.cold`.

    Raises:
        DreamrError: the cluster does not answer.
    """
    rng = random.Random(seed)
    found: dict[str, list[tuple[bool, float, Answer]]] = {policy: [] for policy in POLICIES}
    for number, question in enumerate(questions):
        for policy in rng.sample(POLICIES, len(POLICIES)):
            images = [cold(image, f"sapo {step} {number} {policy}") for image in question.images]
            began = time.perf_counter()
            answer = await client.ask(
                question.text, images=images, policy=policy, governor=GOVERNED[policy], timeout=SECONDS
            )
            seconds = time.perf_counter() - began
            found[policy].append((answer.answer.strip() == question.answer.strip(), seconds, answer))
    right = {policy: [float(one[0]) for one in found[policy]] for policy in POLICIES}
    seconds_of = {policy: [one[1] for one in found[policy]] for policy in POLICIES}
    totals = [answer.totals for _, _, answer in found["fpsr"]]
    judged = sum(total.accepted + total.rejected for total in totals)
    return Evaluation(
        step=step,
        questions=len(questions),
        accuracy={policy: fmean(right[policy]) for policy in POLICIES},
        difference=difference_of_means(right["fpsr"], right["target"]),
        speedup=ratio_of_means(seconds_of["target"], seconds_of["fpsr"]),
        acceptance=sum(total.accepted for total in totals) / judged if judged else 0.0,
        tokens={
            policy: fmean(
                answer.totals.draft.committed_tokens + answer.totals.target.committed_tokens
                for _, _, answer in found[policy]
            )
            for policy in POLICIES
        },
        seconds={policy: fmean(seconds_of[policy]) for policy in POLICIES},
    )


def keeps_accuracy(evaluation: Evaluation, start: Evaluation | None, settings: SapoSettings) -> bool:
    """No loss against the target beyond `max_loss`, and none beyond `margin` within its 95% interval.

    The first is what is asked for, the second keeps few questions from hiding a loss: with 200 of them, a
    tenth of which comes out differently by policy, the interval reaches 4 points to either side. Where the
    draft that training starts from loses more, which is the judge's doing, that is the measure of both: what
    is learnt may not add to it.

    Args:
        start: the evaluation of that draft, on the same questions.
    """

    def low(one: Evaluation) -> float:
        return one.difference.ci95[0] if one.difference.ci95 else one.difference.value

    least, lowest = -settings.max_loss, -settings.margin
    if start is not None:
        least, lowest = min(least, start.difference.value), min(lowest, low(start))
    return evaluation.difference.value >= least and low(evaluation) >= lowest


def best(evaluations: Iterable[Evaluation], settings: SapoSettings) -> Evaluation | None:
    """The fastest of those that keep the accuracy, by the low end of the speedup's 95% interval.

    None where none keeps it. Of several equally fast ones the first.
    """
    found = list(evaluations)
    start = next((one for one in found if one.step == 0), None)
    kept = [one for one in found if keeps_accuracy(one, start, settings)]
    return max(kept, key=_surely, default=None)


def _surely(evaluation: Evaluation) -> float:
    speedup = evaluation.speedup
    return speedup.ci95[0] if speedup.ci95 else speedup.value
