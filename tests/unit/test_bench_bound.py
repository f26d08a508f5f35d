"""A session without overhead is its own bound."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bench.bound import bound
from bench.simulation.clock import VirtualLoop
from bench.simulation.parts import SimulatedParts
from bench.simulation.scenario import Scenario
from bench.simulation.session import Fickle
from dreamr.events import Answer, Event, Finished, Started, from_proto
from dreamr.v1 import gateway_pb2
from services.gateway import convert
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.policy import POLICIES, Policy
from services.gateway.speculation import Speculation

COSTS = {"draft": 0.1, "rival": 1.0, "verdict": 0.15, "answer": 0.3}


def session(
    policy: str,
    seed: int,
    levels: tuple[Speculation, ...] = (),
    costs: dict[str, float] = COSTS,
    cut: float = 0.0,
    change: Callable[[Policy], Policy] = lambda policy: policy,
) -> list[Event]:
    """A simulated session with all its activity, on a clock where nothing but the parts takes time."""
    scenario = Scenario(
        seed=seed,
        policy=change(POLICIES[policy]),
        steps=9,
        max_steps=16,
        acceptance=0.7,
        noise=0.0,
        costs=costs,
        seconds=600.0,
        faults=(),
        levels=levels,
        cut=cut,
    )
    first = Speculation.AFTER_REJECT if levels else Speculation.FULL
    started = gateway_pb2.Started(
        policy=policy,
        window=scenario.policy.window,
        speculation=convert.SPECULATIONS[first],
        max_steps=scenario.max_steps,
    )
    told = [gateway_pb2.ReasonResponse(started=started)]

    async def outbox(response: gateway_pb2.ReasonResponse) -> None:
        told.append(response)

    async def play() -> None:
        parts = SimulatedParts(scenario, lambda event: None)
        clock = asyncio.get_running_loop().time
        machine = Machine(scenario.policy, scenario.max_steps, speculation=first)
        governor = Fickle(levels)
        await Driver(
            machine, parts, outbox, seconds=600, with_activity=True, governor=governor, clock=clock
        ).run()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())
    return [event for response in told if (event := from_proto(response))]


def seconds(events: Sequence[Event]) -> float:
    return next(event.seconds for event in events if isinstance(event, Finished))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_bound_of_a_session_without_overhead_is_its_time(policy: str) -> None:
    for seed in range(20):
        events = session(policy, seed)
        assert isinstance(events[0], Started)
        assert bound(events) == pytest.approx(seconds(events))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_bound_knows_of_steps_that_were_cut_off(policy: str) -> None:
    for seed in range(20):
        events = session(policy, seed, cut=0.3)
        assert bound(events) == pytest.approx(seconds(events))


def test_the_bound_knows_of_other_sizes() -> None:
    def change(policy: Policy) -> Policy:
        return replace(policy, window=2, width=3, first_on_target=1)

    for seed in range(20):
        events = session("fpsr", seed, change=change)
        assert bound(events, width=3, first_on_target=1) == pytest.approx(seconds(events), rel=0.03)


def test_the_bound_knows_of_a_grace_that_was_over() -> None:
    # Verdicts that take longer than a step of the target and its grace.
    late = 0
    for seed in range(20):
        events = session("fpsr", seed, costs={"draft": 0.1, "rival": 0.4, "verdict": 1.2, "answer": 0.3})
        steps = Answer.of(events).steps
        late += sum(step.verdict is not None and step.verdict.reason == "late" for step in steps)
        assert bound(events) == pytest.approx(seconds(events), rel=0.03)
    assert late > 10


def test_the_bound_speculates_as_far_as_the_session_did() -> None:
    full = [seconds(session("fpsr", seed)) for seed in range(20)]
    governed = [session("fpsr", seed, tuple(Speculation)[::-1]) for seed in range(20)]
    # Work that was begun twice cannot always be told apart.
    measured = [seconds(events) for events in governed]
    found = [bound(events) or 0.0 for events in governed]
    assert found == pytest.approx(measured, rel=0.06)
    assert sum(found) == pytest.approx(sum(measured), rel=0.01)
    assert sum(map(seconds, governed)) > sum(full)
