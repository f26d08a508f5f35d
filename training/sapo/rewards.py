"""The three rewards of SAPO, each a number for one rollout. Formulas are ours where the paper tells none."""

from training.sapo.rollout import Rollout


def outcome(rollout: Rollout, answer: str) -> float:
    """1 for the right answer behind closed reasoning, else 0."""
    return float(rollout.answer == answer.strip())


def acceptance(rollout: Rollout, accepted: int) -> float:
    """The share of the rollout's steps that were accepted in a row from the first one, 0 to 1.

    In the cluster a rejected step is replaced by the target's, and what was built on it is thrown away. So
    what stands behind the first reject is never committed: it counts as not accepted, and is not judged,
    since "is the last step correct" has no clear answer behind a wrong one. A rollout without steps gets 0.

    Args:
        accepted: how many.
    """
    return accepted / len(rollout.steps) if rollout.steps else 0.0


def length(rollout: Rollout, right: bool, target_tokens: int) -> float:
    """How much shorter the rollout is than the target's own reasoning, -1 to 1; never above 0 when wrong.

    `l = max(-1, 1 - tokens / target_tokens)`: 0 at the target's length, -1 from twice of it. A right rollout
    gets `l`, a wrong one `min(0, l)` (the form of Kimi k1.5, arXiv 2501.12599, where the group's lengths
    stand for the target's). So at any length being right pays at least as well, and cutting a chain short
    gains nothing unless the answer is still right.

    Args:
        target_tokens: that the target itself takes for the question; 1 or more.
    """
    share = max(-1.0, 1 - rollout.tokens / target_tokens)
    return share if right else min(0.0, share)
