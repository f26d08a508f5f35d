"""What a pair can do, on held-out handwriting: the figures of the model cards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from random import Random

from training.judging import Judgement
from training.task import Example, examples
from training.writing import Writer, places


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares are within 0..1.

    Attributes:
        answers: right answers of each model by itself.
        steps: right steps of each model, written greedily behind true steps.
        auc: of the target's scores on the draft's own greedy steps.
        by_alpha: for each alpha, how many of the draft's steps are accepted, how many of the accepted are
            right (precision), and how many of the right are accepted (recall).
    """

    questions: int
    seed: int
    answers: dict[str, float]
    steps: dict[str, float]
    auc: float
    judged: int
    wrong: int
    by_alpha: dict[str, dict[str, float]]


def evaluate(draft: Writer, target: Writer, *, count: int, seed: int) -> Figures:
    """Lets both models answer `count` held-out questions, and the target judge the draft's steps."""
    rng = Random(seed)
    asked = list(islice(examples(rng, held_out=True), count))
    writers = {"draft": draft, "target": target}
    answers = {name: _answers(writer, asked) for name, writer in writers.items()}
    # Two positions of each question, so that there are enough wrong steps to judge.
    at = places(rng, asked) + places(rng, asked)
    written = {name: writer.candidates(at, temperature=0) for name, writer in writers.items()}
    right = [judgement.right for judgement in written["draft"]]
    scores = target.scores(written["draft"])
    return Figures(
        questions=count,
        seed=seed,
        answers=answers,
        steps={name: _share(found) for name, found in written.items()},
        auc=auc(scores, right),
        judged=len(right),
        wrong=right.count(False),
        by_alpha={f"{alpha}": _at(alpha, scores, right) for alpha in (0.5, 0.7, 0.9)},
    )


def auc(scores: Sequence[float], right: Sequence[bool]) -> float:
    """Area under the ROC curve: how often a right step scores above a wrong one, ties counting half."""
    good = [score for score, is_right in zip(scores, right, strict=True) if is_right]
    bad = [score for score, is_right in zip(scores, right, strict=True) if not is_right]
    if not good or not bad:
        return float("nan")
    wins = sum((first > second) + 0.5 * (first == second) for first in good for second in bad)
    return wins / (len(good) * len(bad))


def as_json(figures: Figures) -> dict[str, object]:
    """For a file."""
    return asdict(figures)


def _answers(writer: Writer, asked: Sequence[Example]) -> float:
    found = writer.answers(asked)
    right = sum(answer == example.answer for (_, answer), example in zip(found, asked, strict=True))
    return right / len(asked)


def _share(judgements: Sequence[Judgement]) -> float:
    return sum(judgement.right for judgement in judgements) / len(judgements)


def _at(alpha: float, scores: Sequence[float], right: Sequence[bool]) -> dict[str, float]:
    accepted = [is_right for score, is_right in zip(scores, right, strict=True) if score > alpha]
    return {
        "accepted": len(accepted) / len(right),
        "precision": sum(accepted) / max(1, len(accepted)),
        "recall": sum(accepted) / max(1, sum(right)),
    }
