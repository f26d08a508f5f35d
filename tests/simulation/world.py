"""A world without I/O around the state machine: it plays every part, under the eyes of a referee.

What happens next, and in which order, is chosen from outside (by hypothesis, or by a seeded generator).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.simulation.referee import Referee
from services.gateway.fpsr import Machine
from services.gateway.messages import (
    Aborted,
    Answered,
    CallFailed,
    Command,
    Drafted,
    DraftEnded,
    Event,
    Failure,
    Governed,
    GraceOver,
    Judged,
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
from services.gateway.speculation import Speculation

Choose = Callable[[list[str]], str]
"""Picks one of several names; the first one must lead towards the end."""


@dataclass
class World:
    """Runs one session; `choose` decides what happens next.

    Attributes:
        wordings: how many different texts a step can have; 1 makes draft and target always agree.
        faults: whether parts may fail, write nothing, truncate and repeat themselves late.
    """

    machine: Machine
    choose: Choose
    wordings: int = 2
    faults: bool = True
    stopped: list[Event] = field(default_factory=list)
    targets: dict[tuple[str, ...], Step] = field(default_factory=dict)
    events: int = 0
    referee: Referee = field(init=False)

    def __post_init__(self) -> None:
        self.referee = Referee.of(self.machine)

    @property
    def running(self) -> dict[int, Start]:
        """Calls that may still say something."""
        return self.referee.running

    def run(self, limit: int = 2_000) -> None:
        """Plays until the session is over."""
        self.begin()
        while self.referee.end is None:
            assert self.running, "nothing runs, yet the session is not over: a deadlock"
            assert self.events < limit, "the session does not end"
            self.tell(self.happen())
        assert all(self.referee.idle(call) for call in self.running)
        assert self.machine.over
        assert self.machine.handle(Aborted("late")) == []

    def begin(self) -> None:
        """Starts the machine."""
        self.obey(self.machine.start())

    def tell(self, event: Event) -> None:
        """Lets an event happen."""
        self.events += 1
        self.referee.see(event)
        self.obey(self.machine.handle(event))

    def obey(self, commands: list[Command]) -> None:
        """Carries commands out."""
        for command in commands:
            if isinstance(command, Stop) and command.call in self.running:
                self.stopped.append(late_reply(self.running[command.call]))
        self.referee.obey(commands)

    # --- what happens -----------------------------------------------------------------------------

    def happen(self) -> Event:
        """The next event, as chosen."""
        names = {f"{type(start).__name__}:{call}": call for call, start in self.running.items()}
        late = {f"late:{event}": event for event in self.stopped[-3:]} if self.faults else {}
        name = self.choose([*names, *late, "govern"])
        if name in late:
            return late[name]
        if name == "govern":
            return Governed(Speculation(self.choose(list(Speculation))))
        call = names[name]
        start = self.running[call]
        kinds = ["goes on", "fails"] if self.faults and not isinstance(start, StartGrace) else ["goes on"]
        if self.choose(kinds) == "fails":
            return CallFailed(call, "broken", Failure(self.choose(list(Failure))))
        match start:
            case StartDraft(call, _, prefix, steps):
                return self.write(call, prefix, steps, Drafted, DraftEnded)
            case StartRival(call, _, prefix, steps):
                return self.write(call, prefix, steps or 10_000, RivalDone, RivalEnded)
            case StartVerdict(call):
                return Judged(call, Verdict(accept=self.choose(["accept", "reject"]) == "accept"))
            case StartAnswer(call):
                return Answered(call, "42", truncated=False)
            case StartGrace(call):
                return GraceOver(call)

    def write(
        self,
        call: int,
        prefix: tuple[str, ...],
        steps: int,
        done: type[Drafted] | type[RivalDone],
        ended: type[DraftEnded] | type[RivalEnded],
    ) -> Event:
        """The next step of a writing call, or its end."""
        written = self.referee.written.get(call, [])
        over = len(written) == steps or (written and written[-1].closes)
        if over or (self.faults and self.choose(["step", "end"]) == "end"):
            return ended(call)
        behind = prefix + tuple(step.text for step in written)
        return done(
            call, self.compose() if done is Drafted else self.targets.setdefault(behind, self.compose())
        )

    def compose(self) -> Step:
        """Some step."""
        closes = self.choose(["closes", "goes on"]) == "closes"
        truncated = self.faults and not closes and self.choose(["whole", "truncated"]) == "truncated"
        wording = self.choose([str(number) for number in range(self.wordings)])
        return Step(f"wording {wording}", tokens=3, closes=closes, truncated=truncated)


def late_reply(start: Start) -> Event:
    """What a stopped call may still say."""
    match start:
        case StartDraft(call):
            return Drafted(call, Step("late"))
        case StartRival(call):
            return RivalDone(call, Step("late", closes=True))
        case StartVerdict(call):
            return Judged(call, Verdict(accept=True))
        case StartAnswer(call):
            return Answered(call, "late")
        case StartGrace(call):
            return GraceOver(call)
