"""What one simulated session meets: chosen by a seed, and made smaller where it breaks a rule."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from services.gateway.messages import Author
from services.gateway.policy import POLICIES, Policy
from services.gateway.speculation import Speculation


class Kind(StrEnum):
    """What can go wrong."""

    SLOW = "slow"
    FAILS = "fails"
    FULL = "full"
    REFUSES = "refuses"
    HANGS = "hangs"
    LOST = "lost"
    SILENT = "silent"
    LATE = "late"
    LEAVES = "leaves"


PARTS = ("draft", "rival", "verdict", "answer")
# The kinds that each part can suffer from; a client that leaves is nobody's call.
_OF_PART = {
    "draft": (Kind.SLOW, Kind.FAILS, Kind.FULL, Kind.REFUSES, Kind.HANGS, Kind.LOST, Kind.SILENT, Kind.LATE),
    "rival": (Kind.SLOW, Kind.FAILS, Kind.FULL, Kind.REFUSES, Kind.HANGS, Kind.LOST, Kind.SILENT, Kind.LATE),
    "verdict": (Kind.SLOW, Kind.FAILS, Kind.FULL, Kind.REFUSES, Kind.HANGS, Kind.LATE),
    "answer": (Kind.SLOW, Kind.FAILS, Kind.HANGS),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with one of a part's calls, or from it on.

    Attributes:
        call: which of the part's calls, from 0; with LEAVES, milliseconds after the session's start.
        lasts: it hits all later calls too: a part that is down, or a target that is overloaded.
        flaps: and of those every second one only.
    """

    kind: Kind
    part: str = ""
    call: int = 0
    lasts: bool = False
    flaps: bool = False

    def hits(self, part: str, call: int) -> bool:
        """Whether it hits a part's call of that number."""
        if part != self.part or call < self.call or (call > self.call and not self.lasts):
            return False
        return not self.flaps or (call - self.call) % 2 == 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One session. Seconds are virtual.

    Attributes:
        steps: of the target's own reasoning.
        acceptance: how often the draft writes what the target would.
        noise: how often the judge errs, either way.
        costs: seconds of a step of each part; each is drawn anew around it.
        levels: what the governor says at first and behind each commit, in turn; none for full speculation.
        max_tokens: of the reasoning; every step has as many as any.
        max_repeats: how often a step may come again; 0 for no limit.
        stuck: the position from which the target says the same step again and again; None for nowhere.
        cut: how often a step is longer than it may be.
        granted: steps that an earlier gateway has committed.
    """

    seed: int
    policy: Policy
    steps: int
    max_steps: int
    acceptance: float
    noise: float
    costs: dict[str, float]
    seconds: float
    faults: tuple[Fault, ...]
    levels: tuple[Speculation, ...] = ()
    max_tokens: int | None = None
    max_repeats: int = 0
    stuck: int | None = None
    cut: float = 0.0
    granted: int = 0

    @classmethod
    def of(cls, seed: int) -> "Scenario":
        """The scenario of a seed; always the same one."""
        chance = random.Random(seed)
        policy = chance.choice(list(POLICIES.values()))
        if policy.window and chance.random() < 0.5:
            window = chance.randint(1, 6)
            policy = replace(
                policy,
                window=window,
                rivals=chance.randint(1, window) if policy.rule.needs_rival else chance.randint(0, 3),
                width=chance.choice((1, 1, 2, 3)),
                first_on_target=chance.choice((0, 0, 1, 3)),
                answer_by=chance.choice((Author.TARGET, Author.TARGET, Author.DRAFT)),
            )
        target = chance.uniform(0.2, 2.0)
        return cls(
            seed=seed,
            policy=policy,
            steps=chance.randint(1, 14),
            max_steps=chance.choice((16, 16, 5)),
            acceptance=chance.random(),
            noise=chance.choice((0.0, 0.1)),
            costs={
                "draft": target * chance.uniform(0.05, 0.5),
                "rival": target,
                "verdict": target * chance.uniform(0.02, 0.5),
                "answer": target * 0.5,
            },
            seconds=chance.choice((600.0, 600.0, 600.0, target * 3)),
            faults=tuple(_fault(chance) for _ in range(chance.choice((0, 1, 1, 2, 3, 5)))),
            levels=tuple(chance.choices(tuple(Speculation), k=chance.choice((0, 0, 1, 3, 5)))),
            max_tokens=chance.choice((*(None,) * 8, 45, 130)),
            max_repeats=chance.choice((0, 0, 1, 2)),
            stuck=chance.choice((*(None,) * 8, 0, 4)),
            cut=chance.choice((0.0, 0.0, 0.0, 0.2)),
            granted=chance.choice((*(0,) * 8, 1, 6)),
        )

    def smaller(self) -> Iterator["Scenario"]:
        """Scenarios with a little less of everything, the boldest cuts first."""
        for index in range(len(self.faults)):
            before, fault, after = self.faults[:index], self.faults[index], self.faults[index + 1 :]
            yield replace(self, faults=before + after)
            if fault.lasts:
                yield replace(self, faults=(*before, replace(fault, lasts=False, flaps=False), *after))
        for steps in (1, self.steps // 2, self.steps - 1):
            if 0 < steps < self.steps:
                yield replace(self, steps=steps)
        policy = self.policy
        if policy.window:
            for less in (
                replace(policy, width=1),
                replace(policy, first_on_target=0),
                replace(policy, answer_by=Author.TARGET),
                replace(policy, window=1),
                replace(policy, window=max(1, policy.window - 1)),
            ):
                if less != policy:
                    yield replace(self, policy=less)
        if self.levels:
            yield replace(self, levels=())
            yield replace(self, levels=self.levels[:-1])
        for plainer in (
            replace(self, noise=0.0),
            replace(self, max_tokens=None),
            replace(self, max_repeats=0),
            replace(self, stuck=None),
            replace(self, cut=0.0),
            replace(self, granted=0),
        ):
            if plainer != self:
                yield plainer


def _fault(chance: random.Random) -> Fault:
    if chance.random() < 0.08:
        return Fault(Kind.LEAVES, call=chance.randint(0, 8_000))
    part = chance.choices(PARTS, (4, 4, 4, 1))[0]
    kind = chance.choice(_OF_PART[part])
    lasts = chance.random() < 0.25
    return Fault(kind, part, chance.randint(0, 6), lasts, flaps=lasts and chance.random() < 0.4)


def shrink(scenario: Scenario, breaks: Callable[[Scenario], bool]) -> Scenario:
    """The smallest scenario found that still breaks."""
    while True:
        for smaller in scenario.smaller():
            if breaks(smaller):
                scenario = smaller
                break
        else:
            return scenario
