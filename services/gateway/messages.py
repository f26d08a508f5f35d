"""What goes into the state machine (events) and what comes out of it (commands).

Plain frozen values: no asyncio, no gRPC, no clock. Texts and token counts only; times are measured by
the driver. `call` numbers a piece of work within its session: the machine gives it out with the command
that starts the work, and every event about that work carries it. Events about a call that was stopped are
ignored, so a late reply is harmless.
"""

from dataclasses import dataclass
from enum import StrEnum

from services.gateway.rule import Rule
from services.gateway.speculation import Speculation


class Author(StrEnum):
    """Who wrote a committed step."""

    DRAFT = "draft"
    TARGET = "target"


class Failure(StrEnum):
    """How a call failed, for the machine."""

    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    REFUSED = "refused"


class Reason(StrEnum):
    """Why a verdict is what it is; the names of `dreamr.v1.VerdictReason`."""

    SCORE = "score"
    LOW_MASS = "low_mass"
    NO_LOGPROBS = "no_logprobs"
    LATE = "late"
    UNAVAILABLE = "unavailable"
    EQUAL_TO_RIVAL = "equal_to_rival"
    TRUNCATED = "truncated"
    DIFFERS_FROM_RIVAL = "differs_from_rival"


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of reasoning up to a blank line.

    Attributes:
        text: without the delimiter.
        tokens: generated for it, the delimiter included.
        closes: the model ended its reasoning with this step.
        truncated: it hit the limit of tokens instead of a delimiter.
        logprobs: mean and least log-probability of its tokens, for rules that go by them.
        version: of the draft that wrote it; 0 for the target's.
    """

    text: str
    tokens: int = 0
    closes: bool = False
    truncated: bool = False
    logprobs: tuple[float, float] | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accept or reject, with the evidence (all within 0..1).

    Attributes:
        seconds: how long it took.
        rule: what decided; None where no rule was asked.
    """

    accept: bool
    reason: Reason = Reason.SCORE
    p_pos: float = 0.0
    p_neg: float = 0.0
    score: float = 0.0
    alpha: float = 0.0
    mass: float = 0.0
    seconds: float = 0.0
    rule: Rule | None = None


# --- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drafted:
    """A drafting call wrote its next candidate."""

    call: int
    step: Step


@dataclass(frozen=True, slots=True)
class DraftEnded:
    """A drafting call has no more to write: its limit is reached or the reasoning closed."""

    call: int


@dataclass(frozen=True, slots=True)
class RivalDone:
    """A rival call wrote its next step; with `steps` above 1 it may go on to the next position."""

    call: int
    step: Step


@dataclass(frozen=True, slots=True)
class RivalEnded:
    """A rival call has no more to write."""

    call: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict came in."""

    call: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole (or truncated by its limit of tokens)."""

    call: int
    text: str
    tokens: int = 0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call failed and will not be tried again."""

    call: int
    message: str
    kind: Failure = Failure.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class GraceOver:
    """The wait for a verdict that a finished rival grants is over."""

    call: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """The session must end now: its deadline passed or its client left."""

    why: str


@dataclass(frozen=True, slots=True)
class Governed:
    """The governor has changed how far to speculate."""

    speculation: Speculation


Event = (
    Drafted
    | DraftEnded
    | RivalDone
    | RivalEnded
    | Judged
    | Answered
    | CallFailed
    | GraceOver
    | Aborted
    | Governed
)


# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartDraft:
    """Draft up to `steps` candidates from `prefix` (committed steps, then candidates) at `index`.

    Attributes:
        lane: 0 for the chain; others write one more candidate for the frontier, on another worker.
    """

    call: int
    index: int
    prefix: tuple[str, ...]
    steps: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class StartRival:
    """Let the target write its own step for position `index`; `steps` 0 means until it closes."""

    call: int
    index: int
    prefix: tuple[str, ...]
    steps: int = 1


@dataclass(frozen=True, slots=True)
class StartVerdict:
    """Judge `candidate` for position `index`, given `prefix`; some rules compare it with `rival`."""

    call: int
    index: int
    prefix: tuple[str, ...]
    candidate: Step
    rival: Step | None = None


@dataclass(frozen=True, slots=True)
class StartAnswer:
    """Let `author` write the answer behind the committed steps."""

    call: int
    steps: tuple[str, ...]
    author: Author = Author.TARGET


@dataclass(frozen=True, slots=True)
class StartGrace:
    """Tell `GraceOver(call)` when the policy's grace has passed."""

    call: int
    index: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel a call; nothing it says from now on counts."""

    call: int


@dataclass(frozen=True, slots=True)
class CommitStep:
    """Append a step to the session.

    Attributes:
        call: the drafting or rival call that wrote it.
        verdict: on the candidate of this position; of a rejected candidate when a rival is committed.
    """

    index: int
    step: Step
    author: Author
    call: int
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Finish:
    """The session is over; `length` tells that a limit of steps or tokens cut it."""

    answer: str
    length: bool


@dataclass(frozen=True, slots=True)
class Fail:
    """The session cannot go on; what is committed is kept.

    Attributes:
        call: the target's call that failed; None when the session was aborted.
    """

    why: str
    call: int | None = None


Start = StartDraft | StartRival | StartVerdict | StartAnswer | StartGrace
"""Begins a call."""

Command = (
    StartDraft | StartRival | StartVerdict | StartAnswer | StartGrace | Stop | CommitStep | Finish | Fail
)
