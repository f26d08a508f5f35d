"""What the state machine knows of drafted steps; no I/O, as there."""

from dataclasses import dataclass

from services.gateway.messages import Reason, Step, Verdict


@dataclass(slots=True)
class Candidate:
    """A drafted step and what is known of it; `judging` is its verdict call."""

    step: Step
    draft: int
    judging: int | None = None
    verdict: Verdict | None = None

    @classmethod
    def drafted(cls, step: Step, draft: int) -> "Candidate":
        """A step that was cut off needs no judge."""
        verdict = Verdict(accept=False, reason=Reason.TRUNCATED) if step.truncated else None
        return cls(step, draft, verdict=verdict)

    def settle(self, verdict: Verdict) -> None:
        """Its verdict is there, by whatever way."""
        self.judging, self.verdict = None, verdict

    @property
    def accepted(self) -> bool:
        """Judged, and good enough."""
        return self.verdict is not None and self.verdict.accept

    @property
    def rejected(self) -> bool:
        """Judged, and not good enough."""
        return self.verdict is not None and not self.verdict.accept


@dataclass(slots=True)
class Other:
    """One more draft worker's try at the frontier's step: a drafting call, then a candidate."""

    call: int
    lane: int
    drafting: bool = True
    candidate: Candidate | None = None
