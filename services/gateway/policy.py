"""Strategies as policies of the one state machine, so that they compare fairly."""

from dataclasses import dataclass

from services.gateway.messages import Author
from services.gateway.rule import Rule


@dataclass(frozen=True, slots=True)
class Policy:
    """How far to speculate.

    Attributes:
        name: what a caller asks for.
        window: candidates in a row that may be in flight; 0 means no speculation.
        rivals: rivals that may run at once before their candidates are judged; 0 starts a rival only
            after a reject.
        rule: what decides on a candidate.
        width: candidates for the frontier that several draft workers write at the same time.
        first_on_target: steps at the start that the target writes alone.
        answer_by: who writes the answer.
        governed: the governor may lower the speculation.
        grace_seconds: how long a finished rival waits for the pending verdict on its candidate, since
            the chain behind the candidate is worth more than one step. A verdict that compares the two has
            its own deadline instead.

    Raises:
        ValueError: on a negative number, on a width of 0, or without the rivals that the rule needs.
    """

    name: str
    window: int
    rivals: int = 1
    rule: Rule = Rule.TBVM
    width: int = 1
    first_on_target: int = 0
    answer_by: Author = Author.TARGET
    grace_seconds: float = 0.5
    governed: bool = False

    def __post_init__(self) -> None:
        if min(self.window, self.rivals, self.first_on_target, self.grace_seconds) < 0:
            raise ValueError(f"policy {self.name!r}: a number is negative")
        if self.width < 1:
            raise ValueError(f"policy {self.name!r}: width must be at least 1")
        if self.rule.needs_rival and self.window and not self.rivals:
            raise ValueError(f"policy {self.name!r}: {self.rule} compares with rivals, and none may run")


TARGET = Policy("target", window=0)
"""The target alone, in one generation: what everything else is compared with."""

SPECREASON = Policy("specreason", window=1, rivals=0, rule=Rule.DIGIT)
"""SpecReason (arXiv 2504.07891): draft one step, let the target give it a digit, rewrite it if that is low.

Strictly one after the other: nothing is drafted ahead, and the target begins its own step after a reject.
"""

LOOKAHEAD = Policy("lookahead", window=4, rivals=4, rule=Rule.EQUIVALENCE)
"""Lookahead Reasoning (arXiv 2506.19830): the target writes its own step beside each drafted one, at once.
A step is kept while both say the same, by their text or else by a judge's word. Saves time, not work.
"""

FPSR = Policy("fpsr", window=4, governed=True)
"""Fully parallel speculative reasoning (arXiv 2605.28678): draft, rival and verdicts at the same time."""

EXACT = Policy("exact", window=4, rivals=4, rule=Rule.EQUALITY)
"""Lossless: a candidate is kept iff it is the target's own step, so that at temperature 0 the result is the
target's, word for word. Lookahead Reasoning without its judge.
"""

POLICIES = {policy.name: policy for policy in (TARGET, SPECREASON, LOOKAHEAD, FPSR, EXACT)}
