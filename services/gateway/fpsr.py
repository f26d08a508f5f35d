"""FPSR (fully parallel speculative reasoning, arXiv 2605.28678) as a state machine without I/O.

Events go in, commands come out (`messages.py`). It knows no asyncio, no gRPC and no clock, so it is tested
by property, replayed from a log and simulated by the thousand.

The picture to keep in mind: `committed` steps, then a `chain` of candidates in a row, drafted but not yet
committed. The first of them stands at the *frontier*. Each candidate has a verdict call of its own; a rival,
the target's own step for a position, may run beside it. With a width above 1 the frontier has `others` too:
further candidates for that one position, from other draft workers.
"""

from collections.abc import Iterable, Iterator
from itertools import count

from services.gateway.candidate import Candidate, Other
from services.gateway.comparison import differs, same
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
    Governed,
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
from services.gateway.rival import Rival
from services.gateway.speculation import Speculation


class Machine:
    """One session's reasoning.

    Args:
        policy: how far to speculate.
        max_steps: steps of the reasoning at most; the answer is written from what is there by then.
        max_tokens: tokens of the committed steps, after which the answer is written; None for no limit.
        max_repeats: how often one text may be committed before the reasoning counts as going in circles and
            the answer is written; 0 for no limit.
        speculation: how far to go at first, within the policy; `Governed` changes it.
        committed: steps of a session that goes on.

    `start` and `handle` return the commands to carry out, in order. After `Finish` or `Fail` the machine is
    `over`: everything it started has been stopped or has ended, and further events return nothing.
    """

    def __init__(
        self,
        policy: Policy,
        max_steps: int,
        *,
        max_tokens: int | None = None,
        max_repeats: int = 0,
        speculation: Speculation = Speculation.FULL,
        committed: Iterable[Step] = (),
    ) -> None:
        if max_steps < 1 or (max_tokens is not None and max_tokens < 1) or max_repeats < 0:
            raise ValueError("max_steps and max_tokens must be at least 1, max_repeats at least 0")
        self.policy = policy
        self.max_steps = max_steps
        self.max_tokens = max_tokens
        self.max_repeats = max_repeats
        self.speculation = speculation
        self.committed = list(committed)
        self.degraded: list[str] = []
        self.over = False
        self._chain: list[Candidate] = []
        self._others: list[Other] = []
        self._rivals: dict[int, Rival] = {}
        self._draft: int | None = None
        self._draft_wrote = False
        self._grace: int | None = None
        self._answer: int | None = None
        self._answers_by = policy.answer_by
        # Draft and verifier are there, as far as is known.
        self._has_draft = policy.window > 0
        self._calls = count(1)
        self._commands: list[Command] = []

    @property
    def _speculating(self) -> bool:
        return self._has_draft and self.speculation is not Speculation.NONE

    @property
    def frontier(self) -> int:
        """The first uncommitted position."""
        return len(self.committed)

    def start(self) -> list[Command]:
        """Begins behind what is committed."""
        if self.committed and self._reasoned_enough():
            return self._begin_answer(self.policy.answer_by)
        return self._advance()

    def handle(self, event: Event) -> list[Command]:
        """Takes one event; an event about a call that was stopped or has ended changes nothing."""
        if self.over:
            return []
        match event:
            case Drafted(call, step) if call == self._draft:
                self._draft_wrote = True
                self._chain.append(Candidate.drafted(step, call))
            case Drafted(call, step) if (other := self._other_of(call)) and other.candidate is None:
                other.candidate = Candidate.drafted(step, call)
            case DraftEnded(call) if other := self._other_of(call):
                other.drafting = False
            case DraftEnded(call) if call == self._draft:
                self._draft = None
                if not self._draft_wrote:
                    self._do_without_draft("the draft wrote nothing")
            case RivalDone(call, step) if rival := self._rival_of(call):
                rival.ahead.append(step)
                rival.wrote = True
            case RivalEnded(call) if rival := self._rival_of(call):
                rival.ended = True
                if not rival.wrote:
                    return self._end(Fail("the target wrote nothing", call))
                if rival.step is None:
                    del self._rivals[rival.index]
            case Judged(call, verdict) if candidate := self._judged_by(call):
                candidate.settle(verdict)
            case Answered(call, text, truncated=truncated) if call == self._answer:
                self._answer = None
                return self._end(Finish(text, length=truncated or not self.committed[-1].closes))
            case CallFailed(call, message, kind):
                if failed := self._lose(call, message, kind):
                    return failed
            case GraceOver(call) if call == self._grace:
                self._grace = None
                for candidate in self._at_frontier():
                    if candidate.judging:
                        self._stop(candidate.judging)
                        candidate.settle(Verdict(accept=False, reason=Reason.LATE))
            case Governed(speculation) if speculation is not self.speculation:
                self.speculation = speculation
                if speculation is Speculation.NONE:
                    self._stop_all_drafting()
            case Aborted(why):
                return self._end(Fail(why))
            case _:
                return []
        return self._advance()

    # --- rules ------------------------------------------------------------------------------------

    def _advance(self) -> list[Command]:
        """Commits all that can be committed, then starts all that may run."""
        if self._answer is not None:
            return self._flush()
        self._compare()
        while self._commit_next():
            if self._reasoned_enough():
                return self._begin_answer(self.policy.answer_by)
        self._prune()
        self._start_verdicts()
        self._start_rivals()
        self._start_draft()
        self._start_others()
        self._start_grace()
        return self._flush()

    def _reasoned_enough(self) -> bool:
        last = self.committed[-1]
        tokens = sum(step.tokens for step in self.committed)
        return (
            last.closes
            or self.frontier >= self.max_steps
            or (self.max_tokens is not None and tokens >= self.max_tokens)
            or 0 < self.max_repeats < sum(step.text == last.text for step in self.committed)
        )

    def _compare(self) -> None:
        """A candidate that says what its rival says needs no judge; for some rules nothing else will do."""
        for candidate, rival in self._pairs():
            if same(rival, candidate.step):
                self._stop(candidate.judging)
                candidate.settle(Verdict(accept=True, reason=Reason.EQUAL_TO_RIVAL))
            elif differs(self.policy.rule, rival, candidate.step):
                self._stop(candidate.judging)
                candidate.settle(Verdict(accept=False, reason=Reason.DIFFERS_FROM_RIVAL))
        for candidate in self._at_frontier():
            undecided = not (candidate.verdict or candidate.judging)
            if undecided and (twin := self._twin(candidate)) and twin.verdict:
                candidate.settle(twin.verdict)

    def _commit_next(self) -> bool:
        """Commits the frontier's step if it is decided: an accepted candidate, or a rival that is due."""
        first = self._chain[0] if self._chain else None
        if first and first.accepted:
            self._drop_others()
            self._commit(first.step, Author.DRAFT, first.draft, first.verdict)
            del self._chain[0]
            self._drop_rival(self.frontier - 1)
            return True
        for other in self._others:
            if (candidate := other.candidate) and candidate.accepted:
                # What was built on the chain's own candidate for this position goes with it.
                self._drop_chain(0)
                self._stop_draft()
                self._drop_others(keep=other)
                self._commit(candidate.step, Author.DRAFT, candidate.draft, candidate.verdict)
                self._drop_rival(self.frontier - 1)
                return True
        rival = self._rivals.get(self.frontier)
        written = rival.step if rival else None
        if rival and written and not any(candidate.verdict is None for candidate in self._at_frontier()):
            self._drop_chain(0)
            self._drop_others()
            self._stop_draft()
            verdict = first.verdict if first else None
            self._commit(written, Author.TARGET, rival.call, verdict)
            del self._rivals[rival.index]
            del rival.ahead[0]
            if rival.runs_on and (rival.ahead or not rival.ended):
                rival.index = self.frontier
                self._rivals[rival.index] = rival
            return True
        return False

    def _prune(self) -> None:
        """Nothing built on a rejected candidate survives, and no rival of an accepted one.

        A target that reasoned on alone until now has no business beside a candidate where rivals are to wait.
        """
        if self._chain and not self._rivals_allowed and not self._needs_target(0, self._chain[0]):
            rival = self._rivals.get(self.frontier)
            if rival and rival.runs_on and not rival.step:
                self._drop_rival(self.frontier)
        for offset, candidate in enumerate(self._chain):
            if candidate.accepted:
                self._drop_rival(self.frontier + offset)
            if candidate.rejected:
                self._stop_draft()
                self._drop_chain(offset + 1)
                return

    def _start_verdicts(self) -> None:
        for offset, candidate in self._candidates():
            if candidate.verdict or candidate.judging or (offset == 0 and self._twin(candidate)):
                continue
            index, rival = self.frontier + offset, None
            if self.policy.rule.needs_rival:
                rival = self._rivals[index].step if index in self._rivals else None
                if rival is None:
                    continue
            candidate.judging = next(self._calls)
            self._commands.append(
                StartVerdict(candidate.judging, index, self._prefix(offset), candidate.step, rival)
            )

    def _start_rivals(self) -> None:
        """Rivals from the frontier on, as far as their prefix is known and the policy allows."""
        running = sum(not (rival.idle or rival.failed) for rival in self._rivals.values())
        for offset, candidate in self._positions():
            index = self.frontier + offset
            must = self._needs_target(offset, candidate)
            if rival := self._rivals.get(index):
                if not (rival.failed and must):
                    continue
                del self._rivals[index]
            may = running < self._rivals_allowed and not (candidate and candidate.accepted)
            if must or may:
                call = next(self._calls)
                runs_on = not self._speculating and not self._chain
                self._rivals[index] = Rival(call, index, runs_on)
                self._commands.append(
                    StartRival(call, index, self._prefix(offset), steps=0 if runs_on else 1)
                )
                running += 1

    @property
    def _rivals_allowed(self) -> int:
        """How many rivals may run before their candidates are judged."""
        full = self.speculation is Speculation.FULL or self.policy.rule.needs_rival
        return self.policy.rivals if full else 0

    def _needs_target(self, offset: int, candidate: Candidate | None) -> bool:
        """Whether the target must write here: nothing is drafted, or not what will do without it."""
        if candidate is None:
            alone = not self._speculating or self.frontier < self.policy.first_on_target
            return alone and offset == 0
        return candidate.rejected or (offset == 0 and not candidate.accepted and self.policy.rule.needs_rival)

    def _start_draft(self) -> None:
        if self._draft or not self._speculating:
            return
        if self._chain and (self._chain[-1].rejected or self._chain[-1].step.closes):
            return
        if self.frontier < self.policy.first_on_target:
            return
        room = min(self.policy.window, self.max_steps - self.frontier) - len(self._chain)
        if room > 0:
            self._draft, self._draft_wrote = next(self._calls), False
            offset = len(self._chain)
            self._commands.append(StartDraft(self._draft, self.frontier + offset, self._prefix(offset), room))

    def _start_others(self) -> None:
        """Further candidates for the frontier, while the chain's own is not accepted."""
        if not self._speculating or self._others or self.frontier < self.policy.first_on_target:
            return
        for lane in range(1, self.policy.width):
            other = Other(next(self._calls), lane)
            self._others.append(other)
            self._commands.append(StartDraft(other.call, self.frontier, self._prefix(0), 1, lane))

    def _start_grace(self) -> None:
        """A finished rival waits for the verdict on its candidate, but not for long.

        Where the verdict is about the rival itself it began only then, and has its own deadline.
        """
        if self.policy.rule.needs_rival:
            return
        rival = self._rivals.get(self.frontier)
        judging = any(candidate.judging for candidate in self._at_frontier())
        if judging and rival and rival.step and self._grace is None:
            self._grace = next(self._calls)
            self._commands.append(StartGrace(self._grace, self.frontier))

    def _begin_answer(self, author: Author) -> list[Command]:
        """The reasoning is over: whatever still runs is beside the point."""
        self._answer = None
        self._stop_all()
        self._answer, self._answers_by = next(self._calls), author
        self._commands.append(StartAnswer(self._answer, self._prefix(0), author))
        return self._flush()

    # --- failures ---------------------------------------------------------------------------------

    def _lose(self, call: int, message: str, kind: Failure) -> list[Command] | None:
        """Goes on without the part that failed; returns the end's commands where nothing else can."""
        if call == self._draft:
            self._draft = None
            self._do_without_draft(f"draft: {message}")
        elif other := self._other_of(call):
            # One worker of several: the chain's own goes on.
            other.drafting = False
        elif candidate := self._judged_by(call):
            # Fail closed: no verdict is a reject.
            candidate.settle(Verdict(accept=False, reason=Reason.UNAVAILABLE))
            if kind is not Failure.OVERLOADED:
                self._do_without_draft(f"verifier: {message}")
        elif call == self._answer:
            if self._answers_by is Author.DRAFT:
                self.degraded.append(f"draft: {message}")
                return self._begin_answer(Author.TARGET)
            self._answer = None
            return self._end(Fail(f"target: {message}", call))
        elif rival := self._rival_of(call):
            rival.ended = rival.failed = True
            candidate = self._chain[0] if self._chain else None
            if rival.index > self.frontier or not self._needs_target(0, candidate):
                return None
            if kind is Failure.REFUSED and self.committed:
                # The context is full: the answer is written from what is there.
                del self._rivals[rival.index]
                return self._begin_answer(Author.TARGET)
            return self._end(Fail(f"target: {message}", call))
        return None

    def _do_without_draft(self, why: str) -> None:
        """From here on the target reasons alone."""
        if why not in self.degraded:
            self.degraded.append(why)
        self._has_draft = False
        self._stop_all_drafting()

    def _end(self, last: Finish | Fail) -> list[Command]:
        self._stop_all()
        self.over = True
        self._commands.append(last)
        return self._flush()

    # --- bookkeeping ------------------------------------------------------------------------------

    def _positions(self) -> Iterator[tuple[int, Candidate | None]]:
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

    def _rival_of(self, call: int) -> Rival | None:
        return next((rival for rival in self._rivals.values() if rival.call == call), None)

    def _judged_by(self, call: int) -> Candidate | None:
        return next((found for _, found in self._candidates() if found.judging == call), None)

    def _other_of(self, call: int) -> Other | None:
        return next((other for other in self._others if other.call == call and other.drafting), None)

    def _candidates(self) -> Iterator[tuple[int, Candidate]]:
        """All that is drafted and not committed, with its offset from the frontier."""
        yield from enumerate(self._chain)
        yield from ((0, other.candidate) for other in self._others if other.candidate)

    def _at_frontier(self) -> Iterator[Candidate]:
        return (candidate for offset, candidate in self._candidates() if offset == 0)

    def _twin(self, candidate: Candidate) -> Candidate | None:
        """Another worker's candidate for the frontier that says the same, and is judged already."""
        for other in self._at_frontier():
            judged = (other.judging or other.verdict) and not other.step.truncated
            if other is not candidate and judged and same(other.step, candidate.step):
                return other
        return None

    def _pairs(self) -> Iterator[tuple[Candidate, Step]]:
        """Candidates without a verdict whose rivals are written."""
        for offset, candidate in self._candidates():
            rival = self._rivals.get(self.frontier + offset)
            if candidate.verdict is None and rival and rival.step:
                yield candidate, rival.step

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
        if rival and not rival.idle:
            self._stop(rival.call)

    def _drop_others(self, keep: Other | None = None) -> None:
        """Drops the frontier's further candidates; `keep` is about to be committed."""
        for other in self._others:
            self._stop_drafting(other)
            if other is not keep and other.candidate:
                self._stop(other.candidate.judging)
        self._others = []

    def _stop_drafting(self, other: Other) -> None:
        if other.drafting:
            self._stop(other.call)
            other.drafting = False

    def _stop_all_drafting(self) -> None:
        """Candidates under way are still judged."""
        self._stop_draft()
        for other in self._others:
            self._stop_drafting(other)
        self._others = [other for other in self._others if other.candidate]

    def _stop_draft(self) -> None:
        self._stop(self._draft)
        self._draft = None

    def _stop_all(self) -> None:
        self._stop_draft()
        self._drop_chain(0)
        self._drop_others()
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
