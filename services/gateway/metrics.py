"""What the gateway tells Prometheus about its sessions."""

from prometheus_client import Counter, Gauge, Histogram

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.metrics import SECONDS
from services.gateway.totals import Totals

SESSIONS = Counter("dreamr_sessions_total", "Sessions that ended, by policy and status", ["policy", "status"])
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
CANCELLED_CALLS = Counter("dreamr_cancelled_calls_total", "Calls that were stopped early", ["part"])
REPLICAS = Gauge(
    "dreamr_replicas", "Replicas of a part: all that are known, and those that calls go to", ["part", "state"]
)
EJECTIONS = Counter(
    "dreamr_replica_ejections_total", "Replicas set aside because calls to them failed", ["part"]
)
HEDGES = Counter("dreamr_hedges_total", "Drafts begun a second time, by the call that was faster", ["faster"])


def count_commit(policy: str, commit: gateway_pb2.Commit) -> None:
    """Counts a commit and the verdict on its position."""
    COMMITS.labels(policy, gateway_pb2.Author.Name(commit.author).removeprefix("AUTHOR_").lower()).inc()
    if commit.HasField("verdict"):
        reason = common_pb2.VerdictReason.Name(commit.verdict.reason).removeprefix("VERDICT_REASON_")
        outcome = "accept" if commit.verdict.accept else "reject"
        VERDICTS.labels(outcome, reason.lower()).inc()
        DRAFT_VERDICTS.labels(str(commit.draft_version), outcome).inc()


def count_end(policy: str, status: str, totals: Totals, seconds: float | None) -> None:
    """Counts how a session ended and what it cost; `seconds` is None unless it finished."""
    SESSIONS.labels(policy, status).inc()
    if seconds is not None:
        SESSION_SECONDS.labels(policy).observe(seconds)
    for part, account in (
        ("draft", totals.draft),
        ("target", totals.target),
        ("verifier", totals.verifier),
    ):
        CANCELLED_CALLS.labels(part).inc(account.cancelled_calls)
        TOKENS.labels(part, "committed").inc(account.committed_tokens)
        TOKENS.labels(part, "wasted").inc(account.wasted_tokens)
