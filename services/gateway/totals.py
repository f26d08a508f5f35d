"""What a session cost, and what of it was of use."""

from dataclasses import dataclass, field

from dreamr.v1 import gateway_pb2


@dataclass(slots=True)
class ModelTotals:
    """Calls to one model; tokens as reported, seconds summed over calls.

    Attributes:
        cancelled_tokens: of the wasted ones, those of calls that were stopped early.
    """

    calls: int = 0
    cancelled_calls: int = 0
    generated_tokens: int = 0
    committed_tokens: int = 0
    busy_seconds: float = 0.0
    cancelled_tokens: int = 0

    @property
    def wasted_tokens(self) -> int:
        """Tokens that stand nowhere in the result."""
        return max(0, self.generated_tokens - self.committed_tokens)

    def message(self) -> gateway_pb2.ModelTotals:
        """As the API tells it."""
        return gateway_pb2.ModelTotals(
            calls=self.calls,
            cancelled_calls=self.cancelled_calls,
            generated_tokens=self.generated_tokens,
            committed_tokens=self.committed_tokens,
            wasted_tokens=self.wasted_tokens,
            busy_seconds=self.busy_seconds,
        )


@dataclass(slots=True)
class Totals:
    """One session's account."""

    draft: ModelTotals = field(default_factory=ModelTotals)
    target: ModelTotals = field(default_factory=ModelTotals)
    verifier: ModelTotals = field(default_factory=ModelTotals)
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    steps_by_target: int = 0

    def message(self) -> gateway_pb2.Totals:
        """As the API tells it; a candidate that was neither accepted nor rejected was cancelled."""
        return gateway_pb2.Totals(
            steps_by_draft=self.accepted,
            steps_by_target=self.steps_by_target,
            accepted=self.accepted,
            rejected=self.rejected,
            cancelled=self.drafted - self.accepted - self.rejected,
            draft=self.draft.message(),
            target=self.target.message(),
            verifier=gateway_pb2.VerifierTotals(
                calls=self.verifier.calls,
                cancelled_calls=self.verifier.cancelled_calls,
                busy_seconds=self.verifier.busy_seconds,
            ),
        )
