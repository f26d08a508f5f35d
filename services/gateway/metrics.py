"""What the gateway tells Prometheus about its sessions."""

from enum import StrEnum

from prometheus_client import Counter, Gauge, Histogram

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.metrics import SECONDS
from services.gateway.policy import POLICIES
from services.gateway.totals import Totals


class Fate(StrEnum):
    """How a gateway leaves a session."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    HANDED_OVER = "handed_over"


SESSIONS = Counter(
    "dreamr_sessions_total", "Sessions that this gateway left, by policy and status", ["policy", "status"]
)
ACTIVE = Gauge("dreamr_active_sessions", "Sessions that run")
WAITING = Gauge("dreamr_waiting_sessions", "Sessions that wait for a place")
CALLER_TOKENS = Counter(
    "dreamr_caller_tokens_total",
    "Tokens of steps and answers, by the caller they were written for",
    ["caller"],
)
SESSION_SECONDS = Histogram(
    "dreamr_session_seconds", "Time of finished sessions, in seconds", ["policy"], buckets=SECONDS
)
COMMITS = Counter("dreamr_commits_total", "Committed steps", ["policy", "author"])
VERDICTS = Counter("dreamr_verdicts_total", "Verdicts on committed positions", ["outcome", "reason"])
DRAFT_VERDICTS = Counter(
    "dreamr_draft_verdicts_total",
    "The same by version of the draft",
    ["version", "outcome"],
)
TOKENS = Counter("dreamr_tokens_total", "Tokens generated", ["model", "fate"])
POSITION_VERDICTS = Counter(
    "dreamr_position_verdicts_total", "The same by position in the reasoning", ["position", "outcome"]
)
VERDICT_SECONDS = Histogram(
    "dreamr_verdict_seconds", "Time of verdicts on committed positions, in seconds", buckets=SECONDS
)
CANCELLED_TOKENS = Counter(
    "dreamr_cancelled_tokens_total",
    "Of the wasted tokens, those that calls which were stopped early had written",
    ["model"],
)
CANCEL_SECONDS = Histogram(
    "dreamr_cancel_seconds",
    "Time from the decision to stop a call until it was over at the gateway, in seconds",
    ["part"],
    buckets=SECONDS,
)
SPECULATION = Counter(
    "dreamr_speculation_total",
    "Committed steps, by how far the governor lets speculate behind them",
    ["level"],
)
GOVERNOR_READY = Gauge("dreamr_governor_ready", "Whether the governor has seen enough to decide: 0 or 1")
GOVERNOR_ACCEPTANCE = Gauge("dreamr_governor_acceptance", "Share of accepted steps, as the governor sees it")
AWAY_SESSIONS = Gauge("dreamr_away_sessions", "Sessions that run and that their store has not all of")
STORE_FAILURES = Counter("dreamr_store_failures_total", "Times that the store could not be used")
CANCELLED_CALLS = Counter("dreamr_cancelled_calls_total", "Calls that were stopped early", ["part"])
REPLICAS = Gauge(
    "dreamr_replicas", "Replicas of a part: all that are known, and those that calls go to", ["part", "state"]
)
EJECTIONS = Counter(
    "dreamr_replica_ejections_total", "Replicas set aside because calls to them failed", ["part"]
)
HEDGES = Counter("dreamr_hedges_total", "Drafts begun a second time, by the call that was faster", ["faster"])

# What is rare is there from the start: Prometheus sees no rise to the first value that it sees.
for _part in ("draft", "target", "verifier"):
    EJECTIONS.labels(_part)
for _faster in ("first", "second"):
    HEDGES.labels(_faster)
for _policy in POLICIES:
    for _fate in Fate:
        SESSIONS.labels(_policy, _fate)


# Positions from which on several are counted together: a label has few values.
_RANGES = ((8, "8-15"), (16, "16-31"), (32, "32-63"), (64, "64-"))


def position(index: int) -> str:
    """The label of a position, from 0."""
    return next((name for first, name in reversed(_RANGES) if index >= first), str(index))


def count_commit(policy: str, commit: gateway_pb2.Commit) -> None:
    """Counts a commit and the verdict on its position."""
    COMMITS.labels(policy, gateway_pb2.Author.Name(commit.author).removeprefix("AUTHOR_").lower()).inc()
    if commit.HasField("verdict"):
        reason = common_pb2.VerdictReason.Name(commit.verdict.reason).removeprefix("VERDICT_REASON_")
        outcome = "accept" if commit.verdict.accept else "reject"
        VERDICTS.labels(outcome, reason.lower()).inc()
        DRAFT_VERDICTS.labels(str(commit.draft_version), outcome).inc()
        POSITION_VERDICTS.labels(position(commit.index), outcome).inc()
        VERDICT_SECONDS.observe(commit.verdict.seconds)
    SPECULATION.labels(
        gateway_pb2.Speculation.Name(commit.speculation).removeprefix("SPECULATION_").lower()
    ).inc()


def count_end(policy: str, fate: Fate, totals: Totals, seconds: float | None) -> None:
    """Counts how a session was left and what it cost; `seconds` is None unless it finished."""
    SESSIONS.labels(policy, fate).inc()
    if seconds is not None:
        SESSION_SECONDS.labels(policy).observe(seconds)
    for model, account in (("draft", totals.draft), ("target", totals.target)):
        CANCELLED_CALLS.labels(model).inc(account.cancelled_calls)
        TOKENS.labels(model, "committed").inc(account.committed_tokens)
        TOKENS.labels(model, "wasted").inc(account.wasted_tokens)
        CANCELLED_TOKENS.labels(model).inc(account.cancelled_tokens)
    # It writes nothing itself.
    CANCELLED_CALLS.labels("verifier").inc(totals.verifier.cancelled_calls)
