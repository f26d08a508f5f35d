"""The bound of a session: its calls as long as they were, and nothing else.

The same machine and driver play the session again under a virtual clock. Every call takes the time that it
took, the gateway takes none, and a cancelled call stops at once: the critical path through the parts' work.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from bench.simulation.clock import StuckError, VirtualLoop
from dreamr.events import Activity, Commit, Event, Started
from dreamr.v1 import gateway_pb2
from services.common.errors import ServiceError
from services.gateway.driver import Driver
from services.gateway.fpsr import Machine
from services.gateway.governs import Ungoverned
from services.gateway.messages import (
    Answered,
    CallFailed,
    Command,
    CommitStep,
    Drafted,
    DraftEnded,
    Governed,
    GraceOver,
    Judged,
    Reason,
    RivalDone,
    RivalEnded,
    Start,
    StartAnswer,
    StartDraft,
    StartGrace,
    StartRival,
    StartVerdict,
    Step,
    Stop,
    Verdict,
)
from services.gateway.messages import Event as MachineEvent
from services.gateway.parts import Answer, Progress
from services.gateway.policy import POLICIES
from services.gateway.speculation import Speculation

SECONDS = 86_400.0

Key = tuple[str, tuple[str, ...]]
"""A piece of work: its part, and the steps it stands behind (with a verdict, the candidate too)."""


def _drafting(start: StartDraft) -> str:
    """Draft workers are told apart: each writes a candidate of its own for the same position."""
    return f"draft {start.lane}"


class _Replay:
    """`Parts` that do what was done, each piece once and as fast as it was."""

    def __init__(self, pieces: dict[Key, deque[tuple[float, Activity]]]) -> None:
        self._pieces = pieces

    async def _piece(self, part: str, behind: tuple[str, ...]) -> Activity:
        pieces = self._pieces.get((part, behind))
        if not pieces:
            # Cut short in the session, as it will be here.
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        seconds, event = piece = pieces.popleft()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            # As in the session, where it was begun in vain, and done by a later call.
            pieces.appendleft(piece)
            raise
        return event

    async def _steps(self, part: str, behind: tuple[str, ...], count: int) -> AsyncGenerator[Step, None]:
        for _ in range(count):
            event = await self._piece(part, behind)
            yield _step(event)
            if event.closes or event.truncated:
                return
            behind += (event.text,)

    async def draft(self, start: StartDraft) -> AsyncGenerator[Step, None]:
        """See Parts."""
        async with aclosing(self._steps(_drafting(start), start.prefix, start.steps)) as steps:
            async for step in steps:
                yield step

    async def rival(self, start: StartRival) -> AsyncGenerator[Step | Progress, None]:
        """See Parts."""
        async with aclosing(self._steps("rival", start.prefix, start.steps or 1_000)) as steps:
            async for step in steps:
                yield step

    async def verdict(self, start: StartVerdict) -> Verdict:
        """See Parts."""
        found = (await self._piece("verdict", (*start.prefix, start.candidate.text))).verdict
        assert found is not None
        return Verdict(found.accept, Reason(found.reason), score=found.score, mass=found.mass)

    async def answer(self, start: StartAnswer) -> Answer:
        """See Parts."""
        event = await self._piece("answer", start.steps)
        return Answer(event.text, 1, truncated=False)


class _Led(Ungoverned):
    """Speculates as far as the session did, commit by commit."""

    def __init__(self, levels: Sequence[str]) -> None:
        self._levels = iter(levels)

    def level(self) -> Speculation:
        """See Governs."""
        return Speculation(next(self._levels, Speculation.FULL))


def _pieces(
    machine: Machine, activities: Sequence[Activity], levels: Sequence[str]
) -> dict[Key, deque[tuple[float, Activity]]]:
    """What was done, and in how many seconds.

    The machine is led through the session once more, since it alone knows behind which steps each call stood.

    Args:
        levels: of speculation behind each commit.
    """
    pieces: dict[Key, deque[tuple[float, Activity]]] = defaultdict(deque)
    starts: dict[int, Start] = {}
    since: dict[int, float] = {}
    behind: dict[int, tuple[str, ...]] = {}
    stopped: set[int] = set()
    grace = 0

    def obey(commands: list[Command]) -> None:
        nonlocal grace
        for command in commands:
            match command:
                case Stop(call):
                    stopped.add(call)
                case StartGrace(call):
                    grace = call
                case CommitStep(index):
                    obey(machine.handle(Governed(Speculation(levels[index]))))
                case StartDraft(call) | StartRival(call):
                    starts[call], behind[call] = command, command.prefix
                case StartVerdict(call):
                    starts[call], behind[call] = command, (*command.prefix, command.candidate.text)
                case StartAnswer(call):
                    starts[call], behind[call] = command, command.steps

    obey(machine.start())
    for event in activities:
        if event.call not in starts:
            continue
        before, since[event.call] = since.get(event.call, event.at), event.at
        if event.phase == "step" or (event.phase == "done" and event.part in ("verdict", "answer")):
            start = starts[event.call]
            part = _drafting(start) if isinstance(start, StartDraft) else event.part
            pieces[part, behind[event.call]].append((event.at - before, event))
        if event.phase == "step":
            behind[event.call] += (event.text,)
        if happened := _event(event):
            obey(machine.handle(happened))
        elif event.phase == "cancelled" and event.part == "verdict" and event.call not in stopped:
            # The machine would not have stopped it by itself: its grace was over, which is told to nobody.
            obey(machine.handle(GraceOver(grace)))
    return pieces


def _event(activity: Activity) -> MachineEvent | None:
    """What the machine was told when this was seen."""
    call, step = activity.call, _step(activity)
    match activity.part, activity.phase:
        case "draft", "step":
            return Drafted(call, step)
        case "rival", "step":
            return RivalDone(call, step)
        case "draft", "done":
            return DraftEnded(call)
        case "rival", "done":
            return RivalEnded(call)
        case "verdict", "done" if activity.verdict:
            found = activity.verdict
            return Judged(call, Verdict(found.accept, Reason(found.reason), score=found.score))
        case "answer", "done":
            return Answered(call, activity.text)
        case _, "failed":
            return CallFailed(call, activity.text)
    return None


def _step(activity: Activity) -> Step:
    return Step(activity.text, closes=activity.closes, truncated=activity.truncated)


def bound(events: Sequence[Event], *, width: int = 1, first_on_target: int = 0) -> float | None:
    """Seconds that the session would have taken; None where it cannot be played again.

    Args:
        events: all of a finished session, its activity among them.
        width: that the session asked for, and
        first_on_target: as `AsyncClient.reason` takes them.
    """
    started = next(event for event in events if isinstance(event, Started))
    commits = [event for event in events if isinstance(event, Commit)]
    policy = POLICIES[started.policy]
    if policy.window:
        rivals = started.window if policy.rule.needs_rival else policy.rivals
        policy = replace(
            policy, window=started.window, rivals=rivals, width=width, first_on_target=first_on_target
        )
    # Where the reasoning did not close, a limit ended it, which need not be that of steps.
    max_steps = (started.max_steps or len(commits) + 1) if commits[-1].closes else len(commits)
    activities = [event for event in events if isinstance(event, Activity)]
    first = Speculation(started.speculation)
    levels = [commit.speculation for commit in commits]

    def machine() -> Machine:
        return Machine(policy, max_steps, speculation=first)

    replay = _Replay(_pieces(machine(), activities, levels))
    told: list[gateway_pb2.ReasonResponse] = []

    async def outbox(response: gateway_pb2.ReasonResponse) -> None:
        told.append(response)

    async def play() -> None:
        clock = asyncio.get_running_loop().time
        await Driver(machine(), replay, outbox, seconds=SECONDS, governor=_Led(levels), clock=clock).run()

    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(play())
    except (StuckError, ServiceError):
        return None
    seconds = told[-1].finished.seconds
    return seconds if seconds < SECONDS / 2 else None
