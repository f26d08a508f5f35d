"""A world without I/O around the state machine: it plays every part, and checks the rules at every command.

What happens next, and in which order, is chosen from outside (by hypothesis, or by a seeded generator).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.fpsr import Machine
from services.gateway.messages import (
    Aborted,
    Answered,
    Author,
    CallFailed,
    Command,
    CommitStep,
    Drafted,
    DraftEnded,
    Event,
    Fail,
    Failure,
    Finish,
    GraceOver,
    Judged,
    Reason,
    RivalDone,
    RivalEnded,
    StartAnswer,
    StartDraft,
    StartGrace,
    StartRival,
    StartVerdict,
    Step,
    Stop,
    Verdict,
)
from services.gateway.policy import Rule

Start = StartDraft | StartRival | StartVerdict | StartAnswer | StartGrace
Choose = Callable[[list[str]], str]
"""Picks one of several names; the first one must lead towards the end."""


@dataclass
class World:
    """Runs one session; `choose` decides what happens next.

    Attributes:
        wordings: how many different texts a step can have; 1 makes draft and target always agree.
        full: a model has refused to write more, as where its context is full.
        faults: whether parts may fail, write nothing, truncate and repeat themselves late.
    """

    machine: Machine
    choose: Choose
    wordings: int = 2
    faults: bool = True
    running: dict[int, Start] = field(default_factory=dict)
    started: dict[int, Start] = field(default_factory=dict)
    stopped: list[Event] = field(default_factory=list)
    written: dict[int, list[Step]] = field(default_factory=dict)
    verdicts: dict[tuple[tuple[str, ...], str, bool], list[Verdict]] = field(default_factory=dict)
    targets: dict[tuple[str, ...], Step] = field(default_factory=dict)
    commits: list[CommitStep] = field(default_factory=list)
    end: Finish | Fail | None = None
    full: bool = False
    events: int = 0

    def run(self, limit: int = 2_000) -> None:
        """Plays until the session is over."""
        self.obey(self.machine.start())
        while self.end is None:
            assert self.running, "nothing runs, yet the session is not over: a deadlock"
            assert self.events < limit, "the session does not end"
            self.tell(self.happen())
        assert not self.running or all(self.finished(call) for call in self.running)
        assert self.machine.over
        assert self.machine.handle(Aborted("late")) == []

    def tell(self, event: Event) -> None:
        self.events += 1
        self.obey(self.machine.handle(event))

    def finished(self, call: int) -> bool:
        """A rival that has said all it can say, and only its end is still to come."""
        start, written = self.running[call], self.written.get(call)
        if not isinstance(start, StartRival) or not written:
            return False
        return start.steps == 1 or written[-1].closes

    # --- what happens -----------------------------------------------------------------------------

    def happen(self) -> Event:
        names = {f"{type(start).__name__}:{call}": call for call, start in self.running.items()}
        extra = ["late reply"] if self.faults and self.stopped else []
        name = self.choose([*names, *extra])
        if name == "late reply":
            return self.stopped[-1]
        call = names[name]
        start = self.running[call]
        kinds = ["goes on", "fails"] if self.faults and not isinstance(start, StartGrace) else ["goes on"]
        if self.choose(kinds) == "fails":
            del self.running[call]
            kind = Failure(self.choose(list(Failure)))
            self.full |= kind is Failure.REFUSED and isinstance(start, StartRival)
            return CallFailed(call, "broken", kind)
        match start:
            case StartDraft(call, _, prefix, steps):
                return self.write(call, prefix, steps, Drafted, DraftEnded)
            case StartRival(call, _, prefix, steps):
                return self.write(call, prefix, steps or 10_000, RivalDone, RivalEnded)
            case StartVerdict(call, _, prefix, candidate):
                del self.running[call]
                verdict = Verdict(accept=self.choose(["accept", "reject"]) == "accept")
                self.verdicts.setdefault((prefix, candidate.text, candidate.closes), []).append(verdict)
                return Judged(call, verdict)
            case StartAnswer(call):
                del self.running[call]
                return Answered(call, "42", truncated=False)
            case StartGrace(call):
                del self.running[call]
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
        written = self.written.setdefault(call, [])
        over = len(written) == steps or (written and written[-1].closes)
        if over or (self.faults and self.choose(["step", "end"]) == "end"):
            del self.running[call]
            return ended(call)
        behind = prefix + tuple(step.text for step in written)
        step = self.compose() if done is Drafted else self.targets.setdefault(behind, self.compose())
        written.append(step)
        return done(call, step)

    def compose(self) -> Step:
        closes = self.choose(["closes", "goes on"]) == "closes"
        truncated = self.faults and not closes and self.choose(["whole", "truncated"]) == "truncated"
        wording = self.choose([str(number) for number in range(self.wordings)])
        return Step(f"wording {wording}", tokens=3, closes=closes, truncated=truncated)

    # --- the rules --------------------------------------------------------------------------------

    def obey(self, commands: list[Command]) -> None:
        for command in commands:
            assert self.end is None, f"{command} behind the end"
            match command:
                case Stop(call):
                    start = self.running.pop(call, None)
                    assert start is not None, f"stops {call}, which does not run"
                    self.stopped.append(late_reply(start))
                case CommitStep():
                    self.check_commit(command)
                case Finish() | Fail():
                    self.end = command
                case _:
                    assert command.call not in self.started, "a call's number is used twice"
                    self.started[command.call] = self.running[command.call] = command
                    self.check_start(command)
        self.check_limits()

    def texts(self) -> tuple[str, ...]:
        return tuple(commit.step.text for commit in self.commits)

    def check_start(self, start: Start) -> None:
        committed = self.texts()
        match start:
            case StartDraft(_, index, prefix, steps, lane):
                assert steps >= 1
                assert index == len(prefix) >= self.machine.policy.first_on_target
                assert prefix[: len(committed)] == committed
                assert lane < self.machine.policy.width
                assert lane == 0 or prefix == committed
            case StartRival(_, index, prefix) | StartVerdict(_, index, prefix):
                assert index == len(prefix)
                assert prefix[: len(committed)] == committed
            case StartAnswer(_, steps):
                assert steps == committed
                assert self.reasoned_enough() or self.full
                assert [call for call in self.running if not self.finished(call)] == [start.call]
            case StartGrace(_, index):
                assert index == len(committed)

    def reasoned_enough(self) -> bool:
        steps = [commit.step for commit in self.commits]
        most = self.machine.max_tokens
        return (
            steps[-1].closes
            or len(steps) == self.machine.max_steps
            or (most is not None and sum(step.tokens for step in steps) >= most)
            or 0 < self.machine.max_repeats < self.texts().count(steps[-1].text)
        )

    def check_commit(self, commit: CommitStep) -> None:
        """Every commit is an accepted candidate, or a rival, of exactly the committed prefix."""
        assert commit.index == len(self.commits), "out of order, or twice"
        assert commit.index < self.machine.max_steps
        assert not self.commits or not self.reasoned_enough(), "a commit behind the close"
        origin = self.started[commit.call]
        assert isinstance(origin, StartDraft | StartRival)
        texts = origin.prefix + tuple(step.text for step in self.written[commit.call])
        offset = commit.index - origin.index
        assert texts[: commit.index] == self.texts(), "built on something that was not committed"
        assert self.written[commit.call][offset] is commit.step
        if commit.author is Author.DRAFT:
            assert isinstance(origin, StartDraft)
            assert commit.verdict is not None
            assert commit.verdict.accept
            assert not commit.step.truncated
            if commit.verdict.reason is Reason.EQUAL_TO_RIVAL:
                rival = self.targets[self.texts()]
                assert (rival.text, rival.closes) == (commit.step.text, commit.step.closes)
            else:
                assert self.machine.policy.rule is not Rule.EQUALITY, "the target's own step, or none"
                given = self.verdicts[self.texts(), commit.step.text, commit.step.closes]
                assert any(commit.verdict is verdict for verdict in given)
        else:
            assert isinstance(origin, StartRival)
            assert commit.verdict is None or not commit.verdict.accept
            assert commit.step is self.targets[self.texts()]
        self.commits.append(commit)

    def check_limits(self) -> None:
        kinds = [type(start) for start in self.running.values()]
        policy = self.machine.policy
        assert kinds.count(StartDraft) <= policy.width
        assert kinds.count(StartVerdict) <= policy.window + policy.width - 1
        assert kinds.count(StartAnswer) <= 1
        assert kinds.count(StartGrace) <= 1
        rivals = [
            call
            for call, start in self.running.items()
            if isinstance(start, StartRival) and not self.finished(call)
        ]
        assert len(rivals) <= policy.rivals + 1  # one more where a candidate behind was rejected
        if policy.window == 0:
            assert not any(kind in (StartDraft, StartVerdict, StartGrace) for kind in kinds)


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
