"""What the driver needs of the cluster, for one session. It knows no gRPC; a simulation can stand in."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from services.gateway.messages import StartAnswer, StartDraft, StartRival, StartVerdict, Step, Verdict


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens that a rival's call has written so far."""

    tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer's text, its tokens, and whether it hit their limit."""

    text: str
    tokens: int
    truncated: bool


class Parts(Protocol):
    """Calls to draft, verifier and target. Cancelling an iteration or a call cancels the work behind it.

    All raise ServiceError: UnavailableError when the part is down, LateError past the deadline,
    InvalidRequestError when the model refuses the request itself.
    """

    def draft(self, start: StartDraft) -> AsyncGenerator[Step, None]:
        """Candidates, as they are drafted."""
        ...

    def rival(self, start: StartRival) -> AsyncGenerator[Step | Progress, None]:
        """The target's own steps, and between them what the call has cost."""
        ...

    async def verdict(self, start: StartVerdict) -> Verdict:
        """The verifier's verdict on a candidate."""
        ...

    async def answer(self, start: StartAnswer) -> Answer:
        """The answer, by `start.author`."""
        ...
