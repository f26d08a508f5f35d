"""What a candidate is judged by."""

from enum import StrEnum


class Rule(StrEnum):
    """What decides on a candidate; all but the last are the verifier's (`dreamr.v1.VerificationRule`)."""

    TBVM = "tbvm"
    DIGIT = "digit"
    EQUIVALENCE = "equivalence"
    CONFIDENCE = "confidence"
    CASCADE = "cascade"
    EQUALITY = "equality"

    @property
    def needs_rival(self) -> bool:
        """Whether a candidate is compared with the target's own step for its position."""
        return self in (Rule.EQUIVALENCE, Rule.EQUALITY)

    @property
    def needs_logprobs(self) -> bool:
        """Whether the draft is to say how likely it held its own tokens."""
        return self in (Rule.CONFIDENCE, Rule.CASCADE)
