"""FPSR (fully parallel speculative reasoning, arXiv 2605.28678) as a state machine without I/O.

Events go in, commands come out (`messages.py`). It knows no asyncio, no gRPC and no clock, so it is tested
by property, replayed from a log and simulated by the thousand.

The picture to keep in mind: `committed` steps, then a `chain` of candidates in a row, drafted but not yet
committed. The first of them stands at the *frontier*. Each candidate has a verdict call of its own; a rival,
the target's own step for a position, may run beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

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
from services.gateway.policy import Policy


@dataclass(slots=True)
class _Candidate:
    """A drafted step and what is known of it; `judging` is its verdict call."""

    step: Step
    draft: int
    judging: int | None = None
    verdict: Verdict | None = None

    @property
    def accepted(self) -> bool:
        return self.verdict is not None and self.verdict.accept

    @property
    def rejected(self) -> bool:
        return self.verdict is not None and not self.verdict.accept


@dataclass(slots=True)
class _Rival:
    """The target's own work on `index`; `step` is there once that position is written.

    A rival that `runs_on` goes through the positions by itself, each committed as it is written.
    """

    call: int
    index: int
    runs_on: bool
    wrote: bool = False
    step: Step | None = None
    ended: bool = False


class Machine:
    """One session's reasoning.

    Args:
        policy: how far to speculate.
        max_steps: steps of the reasoning at most; the answer is written from what is there by then.

    `start` and `handle` return the commands to carry out, in order. After `Finish` or `Fail` the machine is
    `over`: everything it started has been stopped or has ended, and further events return nothing.
    """

    def __init__(self, policy: Policy, max_steps: int) -> None:
        if max_steps < 1:
            raise ValueError("max_steps must be at least 1")
        self.policy = policy
        self.max_steps = max_steps
        self.committed: list[Step] = []
        self.degraded: list[str] = []
        self.over = False
        self._chain: list[_Candidate] = []
        self._rivals: dict[int, _Rival] = {}
        self._draft: int | None = None
        self._draft_wrote = False
        self._grace: int | None = None
        self._answer: int | None = None
        self._speculating = policy.window > 0
        self._calls = count(1)
        self._commands: list[Command] = []

    @property
    def frontier(self) -> int:
        """The first uncommitted position."""
        return len(self.committed)

    def start(self) -> list[Command]:
        """Begins from nothing committed."""
        return self._advance()

    def handle(self, event: Event) -> list[Command]:
        """Takes one event; an event about a call that was stopped or has ended changes nothing."""
        if self.over:
            return []
        match event:
            case Drafted(call, step) if call == self._draft:
                self._draft_wrote = True
                verdict = Verdict(accept=False, reason=Reason.TRUNCATED) if step.truncated else None
                self._chain.append(_Candidate(step, call, verdict=verdict))
            case DraftEnded(call) if call == self._draft:
                self._draft = None
                if not self._draft_wrote:
                    self._stop_speculating("the draft wrote nothing")
            case RivalDone(call, step) if rival := self._rival_of(call):
                rival.step, rival.wrote = step, True
            case RivalEnded(call) if rival := self._rival_of(call):
                rival.ended = True
                if not rival.wrote:
                    return self._fail("the target wrote nothing", target_down=True)
                if rival.step is None:
                    del self._rivals[rival.index]
            case Judged(call, verdict) if candidate := self._judged_by(call):
                candidate.judging, candidate.verdict = None, verdict
            case Answered(call, text, truncated=truncated) if call == self._answer:
                self._answer = None
                return self._end(Finish(text, length=truncated or not self.committed[-1].closes))
            case CallFailed(call, message):
                if failed := self._lose(call, message):
                    return failed
            case GraceOver(call) if call == self._grace:
                self._grace = None
                first = self._chain[0]
                self._stop(first.judging)
                first.judging, first.verdict = None, Verdict(accept=False, reason=Reason.LATE)
            case Aborted(why):
                return self._fail(why, target_down=False)
            case _:
                return []
        return self._advance()

    # --- rules ------------------------------------------------------------------------------------

    def _advance(self) -> list[Command]:
        """Commits all that can be committed, then starts all that may run."""
        while self._answer is None and self._commit_next():
            if self.committed[-1].closes or self.frontier == self.max_steps:
                self._begin_answer()
        if self._answer is None:
            self._prune()
            self._start_verdicts()
            self._start_rivals()
            self._start_draft()
            self._start_grace()
        return self._flush()

    def _commit_next(self) -> bool:
        """Commits the frontier's step if it is decided: an accepted candidate, or a rival that is due."""
        first = self._chain[0] if self._chain else None
        rival = self._rivals.get(self.frontier)
        written = rival.step if rival else None
        if first and not first.verdict and written and _same(written, first.step):
            self._stop(first.judging)
            first.judging, first.verdict = None, Verdict(accept=True, reason=Reason.EQUAL_TO_RIVAL)
        if first and first.accepted:
            self._commit(first.step, Author.DRAFT, first.draft, first.verdict)
            del self._chain[0]
            self._drop_rival(self.frontier - 1)
            return True
        if rival and written and (first is None or first.rejected):
            self._drop_chain(0)
            self._stop_draft()
            verdict = first.verdict if first else None
            self._commit(written, Author.TARGET, rival.call, verdict)
            del self._rivals[rival.index]
            if rival.runs_on and not rival.ended:
                rival.index, rival.step = self.frontier, None
                self._rivals[rival.index] = rival
            return True
        return False

    def _prune(self) -> None:
        """Nothing built on a rejected candidate survives."""
        for offset, candidate in enumerate(self._chain):
            if candidate.rejected:
                self._stop_draft()
                self._drop_chain(offset + 1)
                return

    def _start_verdicts(self) -> None:
        for offset, candidate in enumerate(self._chain):
            if candidate.verdict or candidate.judging:
                continue
            candidate.judging = next(self._calls)
            self._commands.append(
                StartVerdict(candidate.judging, self.frontier + offset, self._prefix(offset), candidate.step)
            )

    def _start_rivals(self) -> None:
        """Rivals from the frontier on, as far as their prefix is known and the policy allows."""
        running = sum(rival.step is None for rival in self._rivals.values())
        for offset, candidate in self._positions():
            index = self.frontier + offset
            if index in self._rivals:
                continue
            # Where nothing is drafted, or what was drafted is rejected, the target must write.
            must = candidate.rejected if candidate else not self._speculating
            may = running < self.policy.rivals and not (candidate and candidate.accepted)
            if must or may:
                call = next(self._calls)
                runs_on = not self._speculating and not self._chain
                self._rivals[index] = _Rival(call, index, runs_on)
                self._commands.append(
                    StartRival(call, index, self._prefix(offset), steps=0 if runs_on else 1)
                )
                running += 1

    def _start_draft(self) -> None:
        if self._draft or not self._speculating:
            return
        if self._chain and (self._chain[-1].rejected or self._chain[-1].step.closes):
            return
        room = min(self.policy.window, self.max_steps - self.frontier) - len(self._chain)
        if room > 0:
            self._draft, self._draft_wrote = next(self._calls), False
            offset = len(self._chain)
            self._commands.append(StartDraft(self._draft, self.frontier + offset, self._prefix(offset), room))

    def _start_grace(self) -> None:
        """A finished rival waits for the verdict on its candidate, but not for long."""
        rival = self._rivals.get(self.frontier)
        waiting = bool(self._chain and self._chain[0].judging and rival and rival.step)
        if waiting and self._grace is None:
            self._grace = next(self._calls)
            self._commands.append(StartGrace(self._grace, self.frontier))

    def _begin_answer(self) -> None:
        """The reasoning is over: whatever still runs is beside the point."""
        self._stop_all()
        self._answer = next(self._calls)
        self._commands.append(StartAnswer(self._answer, self._prefix(0)))

    # --- failures ---------------------------------------------------------------------------------

    def _lose(self, call: int, message: str) -> list[Command] | None:
        """Goes on without the part that failed; returns the end's commands if that was the target."""
        if call == self._draft:
            self._draft = None
            self._stop_speculating(f"draft: {message}")
        elif candidate := self._judged_by(call):
            # Fail closed: no verdict is a reject.
            candidate.judging, candidate.verdict = None, Verdict(accept=False, reason=Reason.UNAVAILABLE)
            self._stop_speculating(f"verifier: {message}")
        elif call == self._answer:
            self._answer = None
            return self._fail(f"target: {message}", target_down=True)
        elif rival := self._rival_of(call):
            rival.ended = True
            return self._fail(f"target: {message}", target_down=True)
        return None

    def _stop_speculating(self, why: str) -> None:
        """From here on the target reasons alone; candidates under way are still judged."""
        self.degraded.append(why)
        self._speculating = False
        self._stop_draft()

    def _fail(self, why: str, *, target_down: bool) -> list[Command]:
        return self._end(Fail(why, target_down))

    def _end(self, last: Finish | Fail) -> list[Command]:
        self._stop_all()
        self.over = True
        self._commands.append(last)
        return self._flush()

    # --- bookkeeping ------------------------------------------------------------------------------

    def _positions(self) -> Iterator[tuple[int, _Candidate | None]]:
        """Offsets from the frontier with their candidates, up to the first without a known prefix."""
        for offset, candidate in enumerate(self._chain):
            yield offset, candidate
            if candidate.rejected or candidate.step.closes:
                return
        if self.frontier + len(self._chain) < self.max_steps:
            yield len(self._chain), None

    def _prefix(self, offset: int) -> tuple[str, ...]:
        steps = [*self.committed, *(candidate.step for candidate in self._chain[:offset])]
        return tuple(step.text for step in steps)

    def _rival_of(self, call: int) -> _Rival | None:
        return next((rival for rival in self._rivals.values() if rival.call == call), None)

    def _judged_by(self, call: int) -> _Candidate | None:
        return next((candidate for candidate in self._chain if candidate.judging == call), None)

    def _commit(self, step: Step, author: Author, call: int, verdict: Verdict | None) -> None:
        self._commands.append(CommitStep(self.frontier, step, author, call, verdict))
        self.committed.append(step)
        self._stop(self._grace)
        self._grace = None

    def _drop_chain(self, offset: int) -> None:
        """Drops the candidates from `offset` on, with the rivals that were built on them."""
        for candidate in self._chain[offset:]:
            self._stop(candidate.judging)
        del self._chain[offset:]
        for index in [index for index in self._rivals if index > self.frontier + max(offset - 1, 0)]:
            self._drop_rival(index)

    def _drop_rival(self, index: int) -> None:
        rival = self._rivals.pop(index, None)
        if rival and not rival.ended:
            self._stop(rival.call)

    def _stop_draft(self) -> None:
        self._stop(self._draft)
        self._draft = None

    def _stop_all(self) -> None:
        self._stop_draft()
        self._drop_chain(0)
        for index in list(self._rivals):
            self._drop_rival(index)
        for call in (self._grace, self._answer):
            self._stop(call)
        self._grace = self._answer = None

    def _stop(self, call: int | None) -> None:
        if call is not None:
            self._commands.append(Stop(call))

    def _flush(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands


def _same(rival: Step, candidate: Step) -> bool:
    """Textual equality, the shortcut of Lookahead Reasoning (arXiv 2506.19830)."""
    return rival.text == candidate.text and rival.closes == candidate.closes
