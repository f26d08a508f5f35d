"""What a candidate and its rival tell by themselves, without a judge."""

from services.gateway.messages import Step
from services.gateway.rule import Rule


def same(rival: Step, candidate: Step) -> bool:
    """Textual equality, the shortcut of Lookahead Reasoning (arXiv 2506.19830)."""
    return rival.text == candidate.text and rival.closes == candidate.closes


def differs(rule: Rule, rival: Step, candidate: Step) -> bool:
    """Whether a step that is not the same is another one, whatever a judge says.

    Lookahead Reasoning's compares texts. It does not see that one of them is the end.
    """
    return rule is Rule.EQUALITY or (rule is Rule.EQUIVALENCE and rival.closes != candidate.closes)
