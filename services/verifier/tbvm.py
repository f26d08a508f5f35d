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
        if not seen:
            reason = common_pb2.VERDICT_REASON_NO_LOGPROBS
        elif mass < self.mass_floor or mass == 0:
            reason = common_pb2.VERDICT_REASON_LOW_MASS
        else:
            reason = common_pb2.VERDICT_REASON_SCORE
        return common_pb2.Verdict(
            accept=reason == common_pb2.VERDICT_REASON_SCORE and score > alpha,
            reason=reason,
            p_pos=p_pos,
            p_neg=p_neg,
            score=score,
            alpha=alpha,
            mass=mass,
        )


def word_of(token: str) -> str:
    """A token's text as a plain word: without the marks of spaces, in lower case."""
    return token.strip(_SPACE_MARKS).casefold()
