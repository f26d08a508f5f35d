"""Many simulated sessions, on all cores."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from bench.simulation.clock import StuckError, VirtualLoop
from bench.simulation.scenario import Kind, Scenario, shrink
from bench.simulation.session import Outcome, play

CHUNK = 250


@dataclass(slots=True)
class Violation:
    """A session that broke a rule; `dreamr simulate --sessions 1 --seed SEED` plays it again."""

    seed: int
    rule: str
    smallest: str


@dataclass(slots=True)
class Result:
    """What came of some sessions. `seconds` are virtual."""

    sessions: int = 0
    answered: int = 0
    checks: int = 0
    seconds: float = 0.0
    injected: Counter[Kind] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        """Takes another result in."""
        self.sessions += other.sessions
        self.answered += other.answered
        self.checks += other.checks
        self.seconds += other.seconds
        self.injected += other.injected
        self.violations += other.violations

    def to_json(self) -> dict[str, Any]:
        """As the command writes it."""
        return {
            "sessions": self.sessions,
            "answered": self.answered,
            "virtual_seconds": round(self.seconds, 3),
            "faults": {str(kind): count for kind, count in sorted(self.injected.items())},
            "invariants_checked": self.checks,
            "violations": [
                {"seed": found.seed, "rule": found.rule, "smallest": found.smallest}
                for found in self.violations
            ],
        }


def outcome_of(scenario: Scenario) -> Outcome:
    """Plays one scenario on a virtual clock of its own."""
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(play(scenario))
    except StuckError as error:
        return Outcome(broken=f"stuck: {error}")


def play_seeds(first: int, count: int) -> Result:
    """Sessions of the seeds from `first` on; one that breaks a rule is made as small as it goes."""
    result = Result()
    for seed in range(first, first + count):
        scenario = Scenario.of(seed)
        outcome = outcome_of(scenario)
        result.sessions += 1
        result.answered += outcome.answered
        result.checks += outcome.checks
        result.seconds += outcome.seconds
        result.injected += outcome.injected
        if outcome.broken:
            smallest = shrink(scenario, lambda smaller: bool(outcome_of(smaller).broken))
            result.violations.append(Violation(seed, outcome.broken, repr(smallest)))
    return result


def simulate(sessions: int, seed: int, on_progress: Callable[[int], None]) -> Result:
    """Plays the seeds `seed` to `seed + sessions - 1`.

    Args:
        on_progress: told how many sessions more are over.
    """
    total = Result()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        chunks = [
            pool.submit(play_seeds, first, min(CHUNK, seed + sessions - first))
            for first in range(seed, seed + sessions, CHUNK)
        ]
        for chunk in as_completed(chunks):
            result = chunk.result()
            total.add(result)
            on_progress(result.sessions)
    total.violations.sort(key=lambda found: found.seed)
    return total
