"""What a session tells: plain frozen values. Times are seconds since the session started."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dreamr.errors import ServerError
from dreamr.v1 import common_pb2, gateway_pb2

Author = Literal["draft", "target"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Accept or reject, with the evidence; probabilities are within 0..1, `seconds` is how long it took.

    Attributes:
        rule: what decided: tbvm, digit, equivalence or confidence; empty where no rule was asked.
    """

    accept: bool
    reason: str
    p_pos: float
    p_neg: float
    score: float
    alpha: float
    mass: float
    seconds: float
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """The session exists.

    Attributes:
        durable: it outlives the gateway.
        speculation: how far it goes at first: full, after_reject or none.
        max_steps: that the reasoning may have; 0 where the gateway does not say.
    """

    session_id: str
    policy: str
    window: int
    alpha: float
    durable: bool
    speculation: str = "full"
    max_steps: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """Something began, ended or was cancelled in the cluster.

    Attributes:
        call: the piece of work, within the session.
        part: draft, rival, verdict or answer.
        phase: started, step, done, cancelled or failed.
        index: the position worked on.
        closes: a step that ends the reasoning.
        truncated: a step that was cut off.
    """

    call: int
    part: str
    phase: str
    index: int
    at: float
    text: str
    verdict: Verdict | None
    closes: bool = False
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed step; nothing committed is ever taken back.

    Attributes:
        tokens: generated for it.
        verdict: on the candidate of this position; with a rival committed, the one that rejected it.
        started: when the work on it began.
        written: when its text was complete.
        committed: when it was committed.
        speculation: how far the session goes from here on: full, after_reject or none.
        draft_version: of the draft that wrote the candidates up to here; 0 where it has written none.
    """

    index: int
    text: str
    author: Author
    tokens: int
    closes: bool
    verdict: Verdict | None
    started: float
    written: float
    committed: float
    speculation: str = "full"
    draft_version: int = 0

    @property
    def score(self) -> float | None:
        """The score of the position's candidate; None where nobody scored."""
        return self.verdict.score if self.verdict and self.verdict.mass > 0 else None


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """One model's account: calls and tokens, and seconds that calls were under way."""

    calls: int
    cancelled_calls: int
    generated_tokens: int
    committed_tokens: int
    wasted_tokens: int
    busy_seconds: float


@dataclass(frozen=True, slots=True)
class VerifierTotals:
    """The judging's account."""

    calls: int
    cancelled_calls: int
    busy_seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """A session's account: committed steps by author, candidates by fate, and the models' shares."""

    steps_by_draft: int
    steps_by_target: int
    accepted: int
    rejected: int
    cancelled: int
    draft: ModelTotals
    target: ModelTotals
    verifier: VerifierTotals


@dataclass(frozen=True, slots=True)
class Finished:
    """The end: the answer and what it took. `reason` is stop or length."""

    answer: str
    reason: str
    totals: Totals
    seconds: float
    degraded: tuple[str, ...]


Event = Started | Activity | Commit | Finished


@dataclass(frozen=True, slots=True)
class Session:
    """Where a session stands.

    Attributes:
        status: running, finished, failed or cancelled.
        held: a gateway works on it at the moment.
        finished: once it is.
    """

    status: str
    held: bool
    steps: tuple[Commit, ...]
    finished: Finished | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole session, put together.

    Attributes:
        speculation: how far it went at first: full, after_reject or none.
        reason: stop, or length where a limit cut it off.
    """

    answer: str
    policy: str
    session_id: str
    steps: tuple[Commit, ...]
    totals: Totals
    seconds: float
    degraded: tuple[str, ...]
    speculation: str = "full"
    reason: str = "stop"

    @classmethod
    def of(cls, happened: Iterable[Event]) -> "Answer":
        """From all events of a session.

        Raises:
            ServerError: it did not finish.
        """
        kept = list(happened)
        started = next((event for event in kept if isinstance(event, Started)), None)
        finished = next((event for event in kept if isinstance(event, Finished)), None)
        if started is None or finished is None:
            raise ServerError("the session ended without an answer")
        return cls(
            answer=finished.answer,
            policy=started.policy,
            session_id=started.session_id,
            steps=tuple(event for event in kept if isinstance(event, Commit)),
            totals=finished.totals,
            seconds=finished.seconds,
            degraded=finished.degraded,
            speculation=started.speculation,
            reason=finished.reason,
        )


def from_proto(response: gateway_pb2.ReasonResponse) -> Event | None:
    """The event that a message stands for; None for one that this version does not know."""
    match response.WhichOneof("event"):
        case "started":
            started = response.started
            return Started(
                session_id=started.session_id,
                policy=started.policy,
                window=started.window,
                alpha=started.alpha,
                durable=started.durable,
                speculation=_speculation(started.speculation),
                max_steps=started.max_steps,
            )
        case "activity":
            return _activity(response.activity)
        case "commit":
            return _commit(response.commit)
        case "finished":
            return _finished(response.finished)
        case _:
            return None


def session_from_proto(response: gateway_pb2.GetSessionResponse) -> Session:
    """What `GetSession` tells."""
    return Session(
        status=_name(gateway_pb2.SessionStatus, response.status, "SESSION_STATUS_"),
        held=response.held,
        steps=tuple(map(_commit, response.commits)),
        finished=_finished(response.finished) if response.HasField("finished") else None,
    )


def _name(kind: Any, number: int, prefix: str) -> str:
    """Our name for an enum's value; a newer gateway may have some that this version does not know."""
    try:
        return str(kind.Name(number)).removeprefix(prefix).lower()
    except ValueError:
        return "unknown"


def _speculation(level: gateway_pb2.Speculation) -> str:
    return _name(gateway_pb2.Speculation, level, "SPECULATION_")


def _verdict(verdict: common_pb2.Verdict) -> Verdict:
    return Verdict(
        accept=verdict.accept,
        reason=_name(common_pb2.VerdictReason, verdict.reason, "VERDICT_REASON_"),
        p_pos=verdict.p_pos,
        p_neg=verdict.p_neg,
        score=verdict.score,
        alpha=verdict.alpha,
        mass=verdict.mass,
        seconds=verdict.seconds,
        rule=_name(common_pb2.VerificationRule, verdict.rule, "VERIFICATION_RULE_") if verdict.rule else "",
    )


def _activity(activity: gateway_pb2.Activity) -> Activity:
    return Activity(
        call=activity.call,
        part=_name(gateway_pb2.Part, activity.part, "PART_"),
        phase=_name(gateway_pb2.Phase, activity.phase, "PHASE_"),
        index=activity.index,
        at=activity.at,
        text=activity.text,
        verdict=_verdict(activity.verdict) if activity.HasField("verdict") else None,
        closes=activity.closes,
        truncated=activity.truncated,
    )


def _commit(commit: gateway_pb2.Commit) -> Commit:
    return Commit(
        index=commit.index,
        text=commit.step.text,
        author="draft" if commit.author == gateway_pb2.AUTHOR_DRAFT else "target",
        tokens=commit.step.tokens,
        closes=commit.step.closes,
        verdict=_verdict(commit.verdict) if commit.HasField("verdict") else None,
        started=commit.timings.started,
        written=commit.timings.written,
        committed=commit.timings.committed,
        speculation=_speculation(commit.speculation),
        draft_version=commit.draft_version,
    )


def _model(totals: gateway_pb2.ModelTotals) -> ModelTotals:
    return ModelTotals(
        calls=totals.calls,
        cancelled_calls=totals.cancelled_calls,
        generated_tokens=totals.generated_tokens,
        committed_tokens=totals.committed_tokens,
        wasted_tokens=totals.wasted_tokens,
        busy_seconds=totals.busy_seconds,
    )


def _finished(finished: gateway_pb2.Finished) -> Finished:
    totals = finished.totals
    return Finished(
        answer=finished.answer,
        reason=_name(gateway_pb2.FinishReason, finished.reason, "FINISH_REASON_"),
        totals=Totals(
            steps_by_draft=totals.steps_by_draft,
            steps_by_target=totals.steps_by_target,
            accepted=totals.accepted,
            rejected=totals.rejected,
            cancelled=totals.cancelled,
            draft=_model(totals.draft),
            target=_model(totals.target),
            verifier=VerifierTotals(
                totals.verifier.calls, totals.verifier.cancelled_calls, totals.verifier.busy_seconds
            ),
        ),
        seconds=finished.seconds,
        degraded=tuple(finished.degraded),
    )
