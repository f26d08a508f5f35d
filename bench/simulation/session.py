"""One simulated session: the real machine and the real driver, watched by a referee."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.simulation.parts import SimulatedParts
from bench.simulation.referee import Referee, RuleBrokenError
from bench.simulation.scenario import Kind, Scenario
from dreamr.v1 import gateway_pb2
from services.common.errors import ServiceError
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.governs import Ungoverned
from services.gateway.messages import Command, Event
from services.gateway.rule import Rule
from services.gateway.speculation import Speculation


class WatchedMachine(Machine):
    """A machine that shows everything to a referee."""

    referee: Referee

    def start(self) -> list[Command]:
        """See Machine."""
        return self._shown(super().start())

    def handle(self, event: Event) -> list[Command]:
        """See Machine."""
        self.referee.see(event)
        return self._shown(super().handle(event))

    def _shown(self, commands: list[Command]) -> list[Command]:
        self.referee.obey(commands)
        return commands


class Fickle(Ungoverned):
    """A governor that takes the scenario's levels one after the other, and then again."""

    def __init__(self, levels: Sequence[Speculation]) -> None:
        self._levels = itertools.cycle(levels or (Speculation.FULL,))

    def level(self) -> Speculation:
        """See Governs."""
        return next(self._levels)


@dataclass(slots=True)
class Outcome:
    """How a session went.

    Attributes:
        broken: the rule that does not hold; empty when all do.
        seconds: virtual.
    """

    broken: str = ""
    checks: int = 0
    answered: bool = False
    seconds: float = 0.0
    injected: Counter[Kind] = field(default_factory=Counter)


async def play(scenario: Scenario) -> Outcome:
    """Plays a scenario on the running loop's clock."""
    governor = Fickle(scenario.levels)
    speculation = governor.level()
    told: list[gateway_pb2.ReasonResponse] = []

    async def outbox(response: gateway_pb2.ReasonResponse) -> None:
        told.append(response)

    def late(event: Event) -> None:
        driver._events.put_nowait((event, driver._now()))

    loop = asyncio.get_running_loop()
    parts = SimulatedParts(scenario, late)
    machine = WatchedMachine(
        scenario.policy,
        scenario.max_steps,
        max_tokens=scenario.max_tokens,
        max_repeats=scenario.max_repeats,
        speculation=speculation,
        committed=parts.granted(),
    )
    referee = machine.referee = Referee.of(machine)
    driver = Driver(machine, parts, outbox, seconds=scenario.seconds, governor=governor, clock=loop.time)
    outcome, before, began = Outcome(injected=parts.injected), asyncio.all_tasks(), loop.time()
    leaving = next((fault for fault in scenario.faults if fault.kind is Kind.LEAVES), None)
    session = asyncio.create_task(driver.run())
    if leaving:
        loop.call_later(leaving.call / 1000, session.cancel)
        outcome.injected[Kind.LEAVES] += 1
    await asyncio.wait({session})
    outcome.seconds = loop.time() - began
    try:
        _judge(session, referee, parts, told, scenario)
        if asyncio.all_tasks() != before:
            raise RuleBrokenError("a task is left behind")
    except RuleBrokenError as error:
        outcome.broken = str(error)
    except BaseExceptionGroup as group:
        outcome.broken = "; ".join(f"{type(one).__name__}: {one}" for one in group.exceptions)
    outcome.checks = referee.checks
    outcome.answered = bool(told and told[-1].HasField("finished"))
    return outcome


def _judge(
    session: asyncio.Task[None],
    referee: Referee,
    parts: SimulatedParts,
    told: list[gateway_pb2.ReasonResponse],
    scenario: Scenario,
) -> None:
    """What must hold when a session is over."""
    if parts.running:
        raise RuleBrokenError(f"{parts.running} calls still run")
    told_texts = tuple(one.commit.step.text for one in told if one.HasField("commit"))
    granted = tuple(step.text for step in referee.granted)
    if granted + told_texts != referee.texts[: len(granted + told_texts)]:
        raise RuleBrokenError("the client heard of other steps than were committed")
    answered = bool(told and told[-1].HasField("finished"))
    if session.cancelled():
        if not any(fault.kind is Kind.LEAVES for fault in scenario.faults):
            raise RuleBrokenError("cancelled from within")
    elif error := session.exception():
        if not isinstance(error, ServiceError):
            raise error
        if not may_fail(scenario):
            raise RuleBrokenError(f"failed without a reason: {error}")
    elif not answered:
        raise RuleBrokenError("over without an answer")
    if scenario.policy.rule is Rule.EQUALITY or not scenario.policy.window:
        prefix = granted
        for text in told_texts:
            if parts.truth(prefix).text != text:
                raise RuleBrokenError("exact, and not what the target alone would say")
            prefix += (text,)
    if answered:
        totals = told[-1].finished.totals
        if totals.steps_by_draft + totals.steps_by_target != len(told_texts):
            raise RuleBrokenError("the totals do not add up")


def may_fail(scenario: Scenario) -> bool:
    """Whether the session may end without an answer: nobody stands in for the target, or for time."""
    return scenario.seconds < 100 or any(
        fault.part in ("rival", "answer") or fault.kind in (Kind.HANGS, Kind.SLOW)
        for fault in scenario.faults
    )
