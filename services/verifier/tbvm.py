"""TBVM, the threshold-based verification mechanism (DREAM-R, arXiv 2605.28678), without I/O.

`score = p_pos / (p_pos + p_neg)` from the target's next-word probabilities, summed over the words' token
variants (case, leading space); a candidate is accepted iff `score > alpha`. Whatever is missing or doubtful
is a reject.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dreamr.v1 import common_pb2

# Marks with which tokenizers write a leading space or the start of a word.
_SPACE_MARKS = " \t\n\u0120\u2581"


@dataclass(frozen=True, slots=True)
class Tbvm:
    """The rule for one pair.

    Attributes:
        positive: the word that speaks for a candidate.
        negative: the word that speaks against it.
        mass_floor: p_pos + p_neg below which the judge is held to have said nothing.

    Raises:
        ValueError: the words are the same.
    """

    positive: str
    negative: str
    mass_floor: float

    def __post_init__(self) -> None:
        if word_of(self.positive) == word_of(self.negative):
            raise ValueError("the positive and the negative word must differ")

    def judge(self, tokens: Iterable[tuple[str, float]], alpha: float) -> common_pb2.Verdict:
        """Judges from the likeliest next tokens, given as (text, natural log-probability)."""
        p_pos = p_neg = 0.0
        seen = False
        for text, logprob in tokens:
            seen = True
            word = word_of(text)
            if word == word_of(self.positive):
                p_pos += math.exp(logprob)
            elif word == word_of(self.negative):
                p_neg += math.exp(logprob)
        mass = p_pos + p_neg
        score = p_pos / mass if mass > 0 else 0.0
        reason = reason_of(seen, mass, self.mass_floor)
        return common_pb2.Verdict(
            accept=reason == common_pb2.VERDICT_REASON_SCORE and score > alpha,
            reason=reason,
            p_pos=p_pos,
            p_neg=p_neg,
            score=score,
            alpha=alpha,
            mass=mass,
        )


def reason_of(seen: bool, mass: float, floor: float) -> common_pb2.VerdictReason:
    """Whether there is a score to go by: without one a verdict is a reject (fail closed).

    Args:
        seen: the model returned log-probabilities.
        mass: probability of all that counts.
    """
    if not seen:
        return common_pb2.VERDICT_REASON_NO_LOGPROBS
    if mass < floor or mass == 0:
        return common_pb2.VERDICT_REASON_LOW_MASS
    return common_pb2.VERDICT_REASON_SCORE


def word_of(token: str) -> str:
    """A token's text as a plain word: without the marks of spaces, in lower case."""
    return token.strip(_SPACE_MARKS).casefold()
