"""A policy with another rule, alpha, draft or size, as a bench names it.

`fpsr:0.7`, `fpsr:cascade`, `fpsr@2`, `fpsr+window=2+width=3`.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from services.gateway.rule import Rule

SIZES = ("window", "width", "first_on_target")


@dataclass(frozen=True, slots=True)
class Variant:
    """What is asked for beside the policy's name; None leaves it to policy and pair.

    Attributes:
        sizes: by their names, of `SIZES`.
    """

    policy: str
    rule: Rule | None = None
    alpha: float | None = None
    version: int | None = None
    sizes: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, name: str) -> Self:
        """`POLICY[:RULE][:ALPHA][@VERSION][+SIZE=NUMBER...]`; what there is and may be, the gateway knows.

        Raises:
            ValueError: it is not of that form.
        """
        whole, *pairs = name.split("+")
        sizes = tuple(_size(pair) for pair in pairs)
        chosen, at, number = whole.partition("@")
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
                f"behind it @VERSION of the draft, from 1 on, and +SIZE=NUMBER, of {', '.join(SIZES)}"
            )
        return cls(policy, rule, alpha, version, sizes)

    def warm_up(self) -> Self:
        """What has to be warm for it: the policy, its sizes and the draft's version."""
        return replace(self, rule=None, alpha=None)

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        alpha = None if self.alpha is None else f"{self.alpha:g}"
        chosen = ":".join(part for part in (self.policy, self.rule, alpha) if part is not None)
        if self.version is not None:
            chosen += f"@{self.version}"
        return "+".join((chosen, *(f"{size}={number}" for size, number in self.sizes)))

    def options(self) -> dict[str, Any]:
        """For `AsyncClient.reason`."""
        chosen = {
            "policy": self.policy,
            "rule": self.rule,
            "alpha": self.alpha,
            "draft_version": self.version,
            **dict(self.sizes),
        }
        return {key: value for key, value in chosen.items() if value is not None}


def _size(pair: str) -> tuple[str, int]:
    size, _, number = pair.partition("=")
    if size not in SIZES or not (number.isascii() and number.isdecimal()):
        raise ValueError(f"{pair!r} must be SIZE=NUMBER, of {', '.join(SIZES)}")
    return size, int(number)
