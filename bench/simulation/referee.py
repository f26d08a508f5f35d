"""Checks the rules of FPSR at every event and command, from outside: it knows no inside of the machine."""

from dataclasses import dataclass, field
from typing import Self

from services.gateway.fpsr import Machine
from services.gateway.messages import (
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
from services.gateway.policy import Policy
from services.gateway.rule import Rule
from services.gateway.speculation import Speculation

Texts = tuple[str, ...]


class RuleBrokenError(AssertionError):
    """A rule does not hold; the message says which, and for what."""


@dataclass
class Referee:
    """Follows one session.

    Attributes:
        granted: steps that were committed before.
        running: calls that were started and have neither ended nor been stopped.
        targets: the target's own step behind a prefix, which is always the same one (temperature 0).
        full: a model has refused to write more, as where its context is full.
        checks: rules looked at so far.
    """

    policy: Policy
    max_steps: int
    max_tokens: int | None = None
    max_repeats: int = 0
    granted: tuple[Step, ...] = ()
    running: dict[int, Start] = field(default_factory=dict)
    started: dict[int, Start] = field(default_factory=dict)
    written: dict[int, list[Step]] = field(default_factory=dict)
    verdicts: dict[tuple[Texts, str, bool], list[Verdict]] = field(default_factory=dict)
    targets: dict[Texts, Step] = field(default_factory=dict)
    commits: list[CommitStep] = field(default_factory=list)
    end: Finish | Fail | None = None
    full: bool = False
    speculation: Speculation = Speculation.FULL
    checks: int = 0
    _judging: set[Texts] = field(default_factory=set)

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """Of a machine that has not started, by what it was told."""
        return cls(
            machine.policy,
            machine.max_steps,
            machine.max_tokens,
            machine.max_repeats,
            granted=tuple(machine.committed),
            speculation=machine.speculation,
        )

    @property
    def texts(self) -> Texts:
        """The committed steps' texts."""
        return tuple(step.text for step in self._committed)

    @property
    def _committed(self) -> list[Step]:
        return [*self.granted, *(commit.step for commit in self.commits)]

    def idle(self, call: int) -> bool:
        """A rival that has said all it can say, and only its end is still to come."""
        start, written = self.running[call], self.written.get(call)
        if not isinstance(start, StartRival) or not written:
            return False
        return start.steps == 1 or written[-1].closes

    def reasoned_enough(self) -> bool:
        """Whether the answer is due."""
        steps = self._committed
        return bool(steps) and (
            steps[-1].closes
            or len(steps) >= self.max_steps
            or (self.max_tokens is not None and sum(step.tokens for step in steps) >= self.max_tokens)
            or 0 < self.max_repeats < self.texts.count(steps[-1].text)
        )

    # --- what happens -----------------------------------------------------------------------------

    def see(self, event: Event) -> None:
        """Takes note of an event, before the machine has it; one about a stopped call says nothing."""
        if isinstance(event, Governed):
            self.speculation = event.speculation
        start = self.running.get(getattr(event, "call", 0))
        if start is None:
            return
        match event:
            case Drafted(call, step) | RivalDone(call, step):
                assert isinstance(start, StartDraft | StartRival)
                written = self.written.setdefault(call, [])
                if isinstance(event, RivalDone):
                    behind = start.prefix + tuple(earlier.text for earlier in written)
                    self.targets.setdefault(behind, step)
                written.append(step)
            case Judged(call, verdict):
                assert isinstance(start, StartVerdict)
                key = (start.prefix, start.candidate.text, start.candidate.closes)
                self.verdicts.setdefault(key, []).append(verdict)
                del self.running[call]
            case CallFailed(call, _, kind):
                self.full |= kind is Failure.REFUSED and isinstance(start, StartRival)
                del self.running[call]
            case DraftEnded(call) | RivalEnded(call) | Answered(call) | GraceOver(call):
                del self.running[call]

    def obey(self, commands: list[Command]) -> None:
        """Checks commands in their order.

        Raises:
            RuleBrokenError: a rule does not hold.
        """
        self._judging = {start.prefix for start in self.running.values() if isinstance(start, StartVerdict)}
        for command in commands:
            self._require(self.end is None, f"{command} behind the end")
            match command:
                case Stop(call):
                    self._require(call in self.running, f"stops {call}, which does not run")
                    del self.running[call]
                case CommitStep():
                    self._check_commit(command)
                case Finish() | Fail():
                    self.end = command
                    left = [call for call in self.running if not self.idle(call)]
                    self._require(not left, f"over, and {left} still run")
                case _:
                    self._require(command.call not in self.started, "a call's number is used twice")
                    self.started[command.call] = self.running[command.call] = command
                    self._check_start(command)
        self._check_what_runs()

    # --- the rules --------------------------------------------------------------------------------

    def _require(self, holds: bool, rule: str) -> None:
        self.checks += 1
        if not holds:
            raise RuleBrokenError(rule)

    def _check_start(self, start: Start) -> None:
        committed = self.texts
        match start:
            case StartDraft(_, index, prefix, steps, lane):
                self._require(self.speculation is not Speculation.NONE, "drafts where it must not speculate")
                self._require(1 <= steps <= self.policy.window, f"drafts {steps} steps")
                self._require(lane < self.policy.width, f"lane {lane}")
                self._require(lane == 0 or prefix == committed, "another lane than the chain's looks ahead")
                self._require(index >= self.policy.first_on_target, "drafts what is the target's to write")
                self._check_prefix(index, prefix)
            case StartRival(_, index, prefix):
                self._check_prefix(index, prefix)
                early = self.speculation is not Speculation.FULL and self._is_judged_alone(prefix)
                self._require(not early, "a rival before its candidate is judged")
            case StartVerdict(_, index, prefix):
                self._check_prefix(index, prefix)
            case StartAnswer(_, steps):
                self._require(steps == committed, "the answer stands behind what is committed")
                self._require(self.reasoned_enough() or self.full, "an answer before its time")
                others = [call for call in self.running if not self.idle(call) and call != start.call]
                self._require(not others, f"an answer, and {others} still run")
            case StartGrace(_, index):
                self._require(index == len(committed), "grace for another position than the frontier")
                self._require(not self.policy.rule.needs_rival, "grace for a verdict about the rival")

    def _is_judged_alone(self, prefix: Texts) -> bool:
        """Whether the one candidate behind it is still being judged, by a rule that needs no rival."""
        if self.policy.rule.needs_rival or self.policy.width > 1:
            return False
        return any(
            isinstance(start, StartVerdict) and start.prefix == prefix for start in self.running.values()
        )

    def _check_prefix(self, index: int, prefix: Texts) -> None:
        committed = self.texts
        self._require(index == len(prefix), "a position that is not behind its prefix")
        self._require(prefix[: len(committed)] == committed, "a prefix that was not committed")
        self._require(not self.reasoned_enough(), "work behind the reasoning's end")

    def _check_commit(self, commit: CommitStep) -> None:
        """Every commit is an accepted candidate, or a rival, of exactly the committed prefix."""
        texts = self.texts
        self._require(commit.index == len(texts), "a commit out of order, or twice")
        self._require(not self.reasoned_enough(), "a commit behind the reasoning's end")
        origin = self.started.get(commit.call)
        if not isinstance(origin, StartDraft | StartRival):
            raise RuleBrokenError("a commit that nobody wrote")
        written = self.written.get(commit.call, [])
        whole = origin.prefix + tuple(step.text for step in written)
        self._require(whole[: commit.index] == texts, "built on something that was not committed")
        offset = commit.index - origin.index
        self._require(
            0 <= offset < len(written) and written[offset] is commit.step, "not the step that was written"
        )
        if commit.author is Author.DRAFT:
            self._check_accepted(commit, origin)
        else:
            self._require(isinstance(origin, StartRival), "a target's step by the draft")
            self._require(commit.verdict is None or not commit.verdict.accept, "a rival for an accepted step")
            self._require(
                commit.verdict is not None or self.policy.width > 1 or texts not in self._judging,
                "a rival while its candidate was still being judged",
            )
        self.commits.append(commit)

    def _check_accepted(self, commit: CommitStep, origin: StartDraft | StartRival) -> None:
        step, verdict, texts = commit.step, commit.verdict, self.texts
        self._require(isinstance(origin, StartDraft), "a draft's step by the target")
        if verdict is None or not verdict.accept:
            raise RuleBrokenError("a candidate that was not accepted")
        self._require(not step.truncated, "a candidate that was cut off")
        rival = self.targets.get(texts)
        equal = rival is not None and (rival.text, rival.closes) == (step.text, step.closes)
        if verdict.reason is Reason.EQUAL_TO_RIVAL or self.policy.rule is Rule.EQUALITY:
            self._require(equal, "not what the target would have written")
        else:
            if self.policy.rule is Rule.EQUIVALENCE:
                self._require(rival is not None and rival.closes == step.closes, "an end for no end")
            given = self.verdicts.get((texts, step.text, step.closes), [])
            self._require(any(verdict is one for one in given), "a verdict that nobody gave")

    def _check_what_runs(self) -> None:
        kinds = [type(start) for start in self.running.values()]
        policy, committed = self.policy, self.texts
        self._require(kinds.count(StartDraft) <= policy.width, "more drafting than the policy's width")
        self._require(
            kinds.count(StartVerdict) <= policy.window + policy.width - 1, "verdicts beyond the window"
        )
        self._require(kinds.count(StartAnswer) <= 1 and kinds.count(StartGrace) <= 1, "one of these at most")
        busy = [call for call, start in self.running.items() if _is_rival(start) and not self.idle(call)]
        # One more where a candidate behind was rejected.
        self._require(len(busy) <= policy.rivals + 1, "more rivals than the policy's")
        if self.speculation is Speculation.AFTER_REJECT and self._is_judged_alone(committed):
            beside = [call for call in busy if self._reasons_on(call) and self._behind(call) == committed]
            self._require(not beside, "the target reasons on beside a candidate")
        for call, start in self.running.items():
            if isinstance(start, StartAnswer | StartGrace) or self.idle(call):
                continue
            self._require(
                start.prefix[: len(committed)] == committed[: len(start.prefix)], f"{call} is built on sand"
            )
            for place in range(len(committed), len(start.prefix)):
                self._require(
                    not self._rejected(start.prefix[:place], start.prefix[place]),
                    f"{call} is built on a rejected candidate",
                )

    def _reasons_on(self, call: int) -> bool:
        start = self.running[call]
        return isinstance(start, StartRival) and start.steps == 0

    def _behind(self, call: int) -> Texts:
        """The texts behind which a rival writes now."""
        start = self.running[call]
        assert isinstance(start, StartRival)
        return start.prefix + tuple(step.text for step in self.written.get(call, ()))

    def _rejected(self, prefix: Texts, text: str) -> bool:
        """Whether all verdicts on this step reject it, none is pending, and it is not the target's own."""
        for start in self.running.values():
            # Drafted once more.
            if isinstance(start, StartVerdict) and (start.prefix, start.candidate.text) == (prefix, text):
                return False
        # Nothing is built on a step that closes.
        given = self.verdicts.get((prefix, text, False), ())
        own = self.targets.get(prefix)
        return bool(given) and not any(verdict.accept for verdict in given) and not (own and own.text == text)


def _is_rival(start: Start) -> bool:
    return isinstance(start, StartRival)
