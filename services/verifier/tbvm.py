"""TBVM, the threshold-based verification mechanism (DREAM-R, arXiv 2605.28678), without I/O.

`score = p_pos / (p_pos + p_neg)` from the target's next-word probabilities, summed over the words' token
variants (case, leading space); a candidate is accepted iff `score > alpha`. Whatever is missing or doubtful
is a reject: the paper leaves open what to do then. Lookahead Reasoning's judge of equivalence
(arXiv 2506.19830) is read the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dreamr.v1 import common_pb2
from services.verifier.evidence import Token, probabilities, reason_of
from services.verifier.words import Words


@dataclass(frozen=True, slots=True)
class Tbvm:
    """The rule for one pair.

    Attributes:
        words: that speak for a candidate and against it.
        mass_floor: p_pos + p_neg below which the judge is held to have said nothing.
    """

    words: Words
    mass_floor: float

    def judge(self, tokens: Sequence[Token], alpha: float) -> common_pb2.Verdict:
        """Judges from the likeliest next tokens."""
        p_pos = p_neg = 0.0
        shares = probabilities(tokens)
        for token, share in zip(tokens, shares, strict=False):
            if self.words.speaks_for(token):
                p_pos += share
            elif self.words.speaks_against(token):
                p_neg += share
        mass = p_pos + p_neg
        score = p_pos / mass if mass > 0 else 0.0
        reason = reason_of(bool(shares), mass, self.mass_floor)
        return common_pb2.Verdict(
            accept=reason == common_pb2.VERDICT_REASON_SCORE and score > alpha,
            reason=reason,
            p_pos=p_pos,
            p_neg=p_neg,
            score=score,
            alpha=alpha,
            mass=mass,
        )
