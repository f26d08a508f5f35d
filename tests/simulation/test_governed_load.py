"""As fast as the target alone at any load: real governor, driver and machine, on a target that is shared."""

import asyncio
from contextlib import suppress
from statistics import fmean

import pytest

from bench.simulation.clock import VirtualLoop
from dreamr.v1 import gateway_pb2
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.governor import Governor
from services.gateway.policy import FPSR, TARGET, Policy
from tests.simulation.shared_target import STEPS, SharedTarget, SharingParts, Times

SECONDS = 1e6
GPU = Times(base=0.048, share=0.0001, verdict=0.02, draft=0.2)
EXPERTS = Times(base=0.034, share=0.0014, verdict=0.01, draft=0.34)
SERIAL = Times(base=0.0005, share=0.002, verdict=0.009, draft=0.012)


async def _ask(parts: SharingParts, governor: Governor, policy: Policy) -> float:
    """Seconds of one session."""

    async def outbox(response: gateway_pb2.ReasonResponse) -> None:
        pass

    clock = asyncio.get_running_loop().time
    began = clock()
    with governor.session(policy) as session:
        machine = Machine(policy, STEPS, speculation=session.level())
        await Driver(machine, parts, outbox, seconds=SECONDS, governor=session, clock=clock).run()
    return clock() - began


async def _load(policy: Policy, times: Times, acceptance: float, sessions: int) -> float:
    """Mean seconds of a session, with so many at the same time, once the governor has learnt."""
    target, governor = SharedTarget(times), Governor()
    engine = asyncio.create_task(target.run())
    seconds: list[float] = []

    async def place(number: int) -> None:
        # They do not all begin at once, and the first ones are for learning.
        await asyncio.sleep(number * times.base * 3)
        learning = max(4, 24 // sessions)
        for turn in range(learning + 3):
            found = await _ask(SharingParts(target, number * 100 + turn, acceptance), governor, policy)
            if turn >= learning:
                seconds.append(found)

    await asyncio.gather(*(place(number) for number in range(sessions)))
    engine.cancel()
    with suppress(asyncio.CancelledError):
        await engine
    return fmean(seconds)


def ratio(times: Times, acceptance: float, sessions: int) -> float:
    """How many times as fast as the target alone."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        alone = runner.run(_load(TARGET, times, acceptance, sessions))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return alone / runner.run(_load(FPSR, times, acceptance, sessions))


@pytest.mark.parametrize("acceptance", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sessions", [1, 8, 48])
@pytest.mark.parametrize("times", [GPU, EXPERTS, SERIAL], ids=["gpu", "experts", "serial"])
def test_speculation_is_hardly_ever_slower_than_the_target_and_pays_where_it_can(
    times: Times, sessions: int, acceptance: float
) -> None:
    found = ratio(times, acceptance, sessions)
    # A position in 32 is tried all the same.
    assert found > 0.95
    if acceptance == 0.9:
        assert found > 2
