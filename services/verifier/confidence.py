"""The draft's confidence, without I/O: how likely it held its own tokens. Costs the target nothing.

ConfSpec (arXiv 2602.18447) accepts what a small model is sure of, and asks the large one about the rest.
There the draft is asked for a verdict of its own; here its tokens' probabilities, which are there anyway,
stand in for one.
"""

from dataclasses import dataclass
from typing import Literal

from dreamr.v1 import common_pb2
from services.verifier.evidence import probability, reason_of


@dataclass(frozen=True, slots=True)
class Confidence:
    """The rule for one pair.

    Attributes:
        of: "min" for the step's least likely token, "mean" for the geometric mean over all of them.
    """

    of: Literal["min", "mean"]

    def judge(self, candidate: common_pb2.Step, alpha: float) -> common_pb2.Verdict:
        """Accepts iff the probability is above alpha; a step that came without one is a reject.

        The verdict's score and p_pos are that probability, p_neg is what is missing from 1.
        """
        logprob = candidate.min_logprob if self.of == "min" else candidate.mean_logprob
        told = candidate.HasField("min_logprob") and candidate.HasField("mean_logprob")
        share = probability(logprob) if told else None
        reason = reason_of(share is not None, 1, 0)
        score = share or 0.0
        return common_pb2.Verdict(
            accept=reason == common_pb2.VERDICT_REASON_SCORE and score > alpha,
            reason=reason,
            p_pos=score,
            p_neg=1 - score if share is not None else 0.0,
            score=score,
            alpha=alpha,
            mass=float(share is not None),
        )
