"""What rules have in common: the target's next tokens as evidence, and when there is none to go by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreamr.v1 import common_pb2

# Marks with which tokenizers write a leading space or the start of a word.
_SPACE_MARKS = " \t\n\u0120\u2581"
_ROUNDING = 1e-3
"""A log-probability that is further above 0 is none."""


@dataclass(frozen=True, slots=True)
class Token:
    """One of the target's likeliest next tokens; `logprob` is a natural logarithm."""

    id: int
    text: str
    logprob: float


def probability(logprob: float) -> float | None:
    """Of a natural logarithm, within 0..1; None where that is none of a probability (NaN, above 0)."""
    return min(1.0, math.exp(logprob)) if logprob <= _ROUNDING else None


def probabilities(tokens: Sequence[Token]) -> list[float]:
    """Each token's; empty where one of them cannot be true, since then the others are not trusted either."""
    found = [value for token in tokens if (value := probability(token.logprob)) is not None]
    return found if len(found) == len(tokens) else []


def reason_of(seen: bool, mass: float, floor: float) -> common_pb2.VerdictReason:
    """Whether there is a score to go by: without one a verdict is a reject (fail closed).

    Args:
        seen: the model returned log-probabilities, and they can be true.
        mass: probability of all that counts.
    """
    if not seen:
        return common_pb2.VERDICT_REASON_NO_LOGPROBS
    if mass < floor or mass == 0:
        return common_pb2.VERDICT_REASON_LOW_MASS
    return common_pb2.VERDICT_REASON_SCORE


def word_of(text: str) -> str:
    """A token's text as a plain word: without the marks of spaces, in lower case."""
    return text.strip(_SPACE_MARKS).casefold()
