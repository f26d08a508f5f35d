"""A policy with another rule, alpha or draft, as a bench names it: `fpsr:0.7`, `fpsr:cascade`, `fpsr@2`."""

from dataclasses import dataclass, replace
from typing import Any, Self

from services.gateway.rule import Rule


@dataclass(frozen=True, slots=True)
class Variant:
    """What is asked for beside the policy's name; None leaves it to policy and pair."""

    policy: str
    rule: Rule | None = None
    alpha: float | None = None
    version: int | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """`POLICY[:RULE][:ALPHA][@VERSION]`; whether there are such a policy and version, the gateway knows.

        Raises:
            ValueError: it is not of that form.
        """
        chosen, at, number = name.partition("@")
        policy, *more = chosen.split(":")
        rule = Rule(more.pop(0)) if more and more[0] in set(Rule) else None
        try:
            alpha = float(more.pop(0)) if more else None
        except ValueError:
            alpha = float("nan")
        version = int(number) if number.isascii() and number.isdecimal() else None
        if not policy or more or not (alpha is None or 0 <= alpha <= 1) or (at and not version):
            raise ValueError(
                f"{name!r} must be POLICY, POLICY:RULE, POLICY:ALPHA or POLICY:RULE:ALPHA, "
                "and may end with @VERSION of the draft, from 1 on"
            )
        return cls(policy, rule, alpha, version)

    def warm_up(self) -> Self:
        """What has to be warm for it: the policy and the draft's version."""
        return replace(self, rule=None, alpha=None)

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        alpha = None if self.alpha is None else f"{self.alpha:g}"
        chosen = ":".join(part for part in (self.policy, self.rule, alpha) if part is not None)
        return chosen if self.version is None else f"{chosen}@{self.version}"

    def options(self) -> dict[str, Any]:
        """For `AsyncClient.reason`."""
        chosen = {
            "policy": self.policy,
            "rule": self.rule,
            "alpha": self.alpha,
            "draft_version": self.version,
        }
        return {key: value for key, value in chosen.items() if value is not None}
