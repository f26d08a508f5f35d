"""The referee is worth its name: each rule of the machine, broken on purpose, is noticed."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from services.gateway import candidate, fpsr
from services.gateway.fpsr import Machine
from services.gateway.messages import Author, Event, Judged, Step, Verdict
from services.gateway.policy import EXACT, FPSR, LOOKAHEAD
from services.gateway.rule import Rule
from services.gateway.speculation import Speculation
from tests.simulation.world import World

SESSIONS = 4_000
WIDE = replace(FPSR, width=3, rivals=2)
POLICIES = (FPSR, replace(FPSR, rivals=3), WIDE, EXACT, LOOKAHEAD, replace(FPSR, first_on_target=2))


def play(seed: int) -> None:
    """One session, all of it chosen by the seed."""
    chance = random.Random(seed)

    def choose(names: list[str]) -> str:
        # Long sessions, with a failure or another level of speculation now and then.
        if names[-1] == "govern" and len(names) > 1 and chance.random() < 0.9:
            names = names[:-1]
        if names in (["closes", "goes on"], ["goes on", "fails"]):
            return chance.choices(names, (1, 3) if names[0] == "closes" else (9, 1))[0]
        return chance.choice(names)

    machine = Machine(
        chance.choice(POLICIES),
        chance.randint(1, 6),
        max_tokens=chance.choice((None, None, 9)),
        max_repeats=chance.choice((0, 0, 1)),
        speculation=chance.choice((Speculation.FULL, Speculation.FULL, *Speculation)),
    )
    World(machine, choose, wordings=2, faults=chance.random() < 0.5).run()


def first_broken() -> int | None:
    """The seed of the first session that breaks a rule, if any does."""
    for seed in range(SESSIONS):
        try:
            play(seed)
        except AssertionError:
            return seed
    return None


Patch = Callable[[pytest.MonkeyPatch], None]


def on_machine(name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(Machine, name, value)


def on_candidate(name: str, value: Any) -> Patch:
    return lambda patch: patch.setattr(candidate.Candidate, name, value)


def accepts_late(machine: Machine, event: Event) -> Event:
    """A verdict of a stopped call counts for whatever is judged now."""
    if isinstance(event, Judged) and not machine._judged_by(event.call):
        judging = [found.judging for _, found in machine._candidates() if found.judging]
        return replace(event, call=judging[0]) if judging else event
    return event


_handle = Machine.handle
_stop = Machine._stop
_prefix = Machine._prefix
_start_draft = Machine._start_draft
_commit = Machine._commit
_prune = Machine._prune


def prune_no_rival(self: Machine) -> None:
    drop, self._drop_rival = self._drop_rival, lambda index: None  # type: ignore[method-assign]
    _prune(self)
    self._drop_rival = drop  # type: ignore[method-assign]


def draft_beyond_window(self: Machine) -> None:
    policy = self.policy
    self.policy = replace(policy, window=policy.window + 1)
    _start_draft(self)
    self.policy = policy


def commit_twice(self: Machine, step: Step, author: Author, call: int, verdict: Verdict | None) -> None:
    _commit(self, step, author, call, verdict)
    if len(self.committed) == 2:
        _commit(self, step, author, call, verdict)


def commit_without_waiting(self: Machine) -> bool:
    rival = self._rivals.get(self.frontier)
    if rival and rival.step and self._chain and self._chain[0].verdict is None and self.policy.width == 1:
        step = rival.step
        self._drop_chain(0)
        self._stop_draft()
        self._commit(step, Author.TARGET, rival.call, None)
        del self._rivals[rival.index]
        return True
    return _commit_next(self)


_commit_next = Machine._commit_next

MUTANTS: dict[str, Patch] = {
    "what is judged is accepted": on_candidate("accepted", property(lambda self: self.verdict is not None)),
    "what is not judged is accepted": on_candidate("accepted", property(lambda self: not self.rejected)),
    "nothing is rejected": on_candidate("rejected", property(lambda self: False)),
    "what stands behind a reject survives": on_machine("_prune", lambda self: None),
    "a commit stops no rival": on_machine("_drop_rival", lambda self, index: self._rivals.pop(index, None)),
    "nothing is stopped at the end": on_machine("_stop_all", lambda self: None),
    "a prefix forgets a step": on_machine("_prefix", lambda self, offset: _prefix(self, offset)[1:]),
    "a prefix runs ahead": on_machine("_prefix", lambda self, offset: _prefix(self, offset + 1)),
    "the window is one too wide": on_machine("_start_draft", draft_beyond_window),
    "a step is committed twice": on_machine("_commit", commit_twice),
    "a rival does not wait for the verdict": on_machine("_commit_next", commit_without_waiting),
    "the reasoning has no end but its close": on_machine(
        "_reasoned_enough", lambda self: self.committed[-1].closes
    ),
    "the reasoning goes on behind its close": on_machine(
        "_reasoned_enough", lambda self: self.frontier == self.max_steps
    ),
    "equal texts are enough, one of them closing": lambda patch: patch.setattr(
        fpsr, "same", lambda rival, candidate: rival.text == candidate.text
    ),
    "everything equals its rival": lambda patch: patch.setattr(fpsr, "same", lambda rival, candidate: True),
    "an end is like no end where the judge says so": lambda patch: patch.setattr(
        fpsr, "differs", lambda rule, rival, candidate: rule is Rule.EQUALITY
    ),
    "late verdicts count": on_machine("handle", lambda self, event: _handle(self, accepts_late(self, event))),
    "a stopped draft is not forgotten": on_machine("_stop_draft", lambda self: self._stop(self._draft)),
    "a stop stops nothing": on_machine("_stop", lambda self, call: None),
    "a stop is said twice": on_machine("_stop", lambda self, call: (_stop(self, call), _stop(self, call))),
    "the governor is not heard": on_machine("_speculating", property(lambda self: self._has_draft)),
    "rivals run whatever the governor says": on_machine(
        "_rivals_allowed", property(lambda self: self.policy.rivals)
    ),
    "a target that reasoned on alone goes on beside candidates": on_machine("_prune", prune_no_rival),
    "other workers go on": on_machine(
        "_drop_others", lambda self, keep=None: self._others.clear() if keep is None else None
    ),
}


def test_the_machine_as_it_is_breaks_nothing() -> None:
    assert first_broken() is None


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_broken_rule_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[mutant](monkeypatch)
    assert first_broken() is not None
