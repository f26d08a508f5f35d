"""A policy with another rule or alpha than its own, as a bench names it: `fpsr:0.7`, `fpsr:cascade`."""

from dataclasses import dataclass
from typing import Any, Self

from services.gateway.rule import Rule


@dataclass(frozen=True, slots=True)
class Variant:
    """What is asked for beside the policy's name; None leaves it to policy and pair."""

    policy: str
    rule: Rule | None = None
    alpha: float | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """`POLICY[:RULE][:ALPHA]`. Whether there is such a policy, the gateway knows.

        Raises:
            ValueError: it is not of that form.
        """
        policy, *more = name.split(":")
        rule = Rule(more.pop(0)) if more and more[0] in set(Rule) else None
        try:
            alpha = float(more.pop(0)) if more else None
        except ValueError:
            alpha = float("nan")
        if not policy or more or not (alpha is None or 0 <= alpha <= 1):
            raise ValueError(f"{name!r} must be POLICY, POLICY:RULE, POLICY:ALPHA or POLICY:RULE:ALPHA")
        return cls(policy, rule, alpha)

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        alpha = None if self.alpha is None else f"{self.alpha:g}"
        return ":".join(part for part in (self.policy, self.rule, alpha) if part is not None)

    def options(self) -> dict[str, Any]:
        """For `AsyncClient.reason`."""
        chosen = {"policy": self.policy, "rule": self.rule, "alpha": self.alpha}
        return {key: value for key, value in chosen.items() if value is not None}
