"""Strategies as policies of the one state machine, so that they compare fairly."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How far to speculate.

    Attributes:
        name: what a caller asks for.
        window: candidates in a row that may be in flight; 0 means no speculation.
        rivals: rivals that may run at once before their candidates are judged; 0 starts a rival only
            after a reject.
        grace_seconds: how long a finished rival waits for the pending verdict on its candidate, since
            the chain behind the candidate is worth more than one step.

    Raises:
        ValueError: on a negative number.
    """

    name: str
    window: int
    rivals: int = 1
    grace_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 0 or self.rivals < 0 or self.grace_seconds < 0:
            raise ValueError(f"policy {self.name!r}: window, rivals and grace_seconds must not be negative")


TARGET = Policy("target", window=0)
"""The target alone, in one generation: what everything else is compared with."""

FPSR = Policy("fpsr", window=4)
"""Fully parallel speculative reasoning (arXiv 2605.28678): draft, rival and verdicts at the same time."""

POLICIES = {policy.name: policy for policy in (TARGET, FPSR)}
