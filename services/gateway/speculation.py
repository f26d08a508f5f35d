"""How far a session speculates at the moment; the governor decides, within what the policy allows."""

from enum import StrEnum


class Speculation(StrEnum):
    """Levels, the boldest first; the names of `dreamr.v1.Speculation`."""

    FULL = "full"
    """Draft, rivals and verdicts at the same time."""

    AFTER_REJECT = "after_reject"
    """The draft runs ahead; a rival starts only when a candidate was rejected."""

    NONE = "none"
    """The target alone."""
