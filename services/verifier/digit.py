"""SpecReason's judge (arXiv 2504.07891, section 4.1): the target gives a step a digit. Without I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from dreamr.v1 import common_pb2
from services.verifier.evidence import Token, probabilities, reason_of, word_of

BEST = 9
# A threshold of seven over nine must not be missed by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Digit:
    """The rule for one pair.

    Attributes:
        expected: score by the mean of the digits (the paper's finer scoring), else by the likeliest digit.
        mass_floor: probability of all digits below which the judge is held to have said nothing.
    """

    expected: bool
    mass_floor: float

    def judge(self, tokens: Sequence[Token], alpha: float) -> common_pb2.Verdict:
        """Judges from the likeliest next tokens.

        The verdict's score is the digit over nine; p_pos and p_neg are the probabilities of digits that
        reach alpha and that do not.
        """
        digits = [0.0] * (BEST + 1)
        shares = probabilities(tokens)
        for token, share in zip(tokens, shares, strict=False):
            word = word_of(token.text)
            if len(word) == 1 and word in "0123456789":
                digits[int(word)] += share
        mass = sum(digits)
        if mass == 0:
            value = 0.0
        elif self.expected:
            value = sum(digit * share for digit, share in enumerate(digits)) / mass
        else:
            value = float(digits.index(max(digits)))
        p_pos = sum(share for digit, share in enumerate(digits) if _reaches(digit, alpha))
        reason = reason_of(bool(shares), mass, self.mass_floor)
        return common_pb2.Verdict(
            accept=reason == common_pb2.VERDICT_REASON_SCORE and _reaches(value, alpha),
            reason=reason,
            p_pos=p_pos,
            p_neg=mass - p_pos,
            score=value / BEST,
            alpha=alpha,
            mass=mass,
        )


def _reaches(value: float, alpha: float) -> bool:
    return value / BEST >= alpha - _ROUNDING
