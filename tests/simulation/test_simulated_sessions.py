"""The driver under a virtual clock: nothing breaks, and what is broken on purpose is found and made small."""

import asyncio
import time

import pytest

from bench.simulation.clock import StuckError, VirtualLoop
from bench.simulation.run import outcome_of, play_seeds
from bench.simulation.scenario import Scenario, shrink
from services.gateway.fpsr import Machine


def test_an_hour_passes_in_no_time() -> None:
    before = time.monotonic()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(asyncio.sleep(3600))
        assert runner.get_loop().time() == pytest.approx(3600)
    assert time.monotonic() - before < 60


def test_waiting_for_nothing_is_told() -> None:
    with pytest.raises(StuckError), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(asyncio.Event().wait())


def test_sessions_with_faults_break_no_rule() -> None:
    result = play_seeds(0, 600)
    assert not result.violations
    assert len(result.injected) == 9, "every kind of fault has hit"
    assert result.answered > 300


def test_a_scenario_plays_the_same_again() -> None:
    first, second = outcome_of(Scenario.of(17)), outcome_of(Scenario.of(17))
    assert first == second


def test_a_broken_machine_is_found_and_its_scenario_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "_prune", lambda self: None)
    result = play_seeds(0, 120)
    assert result.violations
    found = result.violations[0]
    scenario = Scenario.of(found.seed)
    assert outcome_of(scenario).broken == found.rule
    smallest = shrink(scenario, lambda one: bool(outcome_of(one).broken))
    assert outcome_of(smallest).broken
    assert found.smallest == repr(smallest)
    assert smallest.steps < scenario.steps or len(smallest.faults) < len(scenario.faults)
    assert not any(outcome_of(smaller).broken for smaller in smallest.smaller())
