"""What the driver needs of a governor, and the one that lets everything go."""

from typing import Protocol

from services.gateway.messages import Author, Start, Verdict
from services.gateway.speculation import Speculation


class Governs(Protocol):
    """Told of one session's calls, asked for its level. Times are seconds on the driver's clock."""

    def began(self, start: Start, at: float) -> None:
        """A call begins."""

    def progressed(self, start: Start, tokens: int, at: float) -> None:
        """A call of the target has written so many tokens in all."""

    def drafted(self, seconds: float) -> None:
        """A candidate took so long to write."""

    def judged(self, seconds: float) -> None:
        """A verdict took so long."""

    def ended(self, start: Start, at: float) -> None:
        """A call is over, however it ended."""

    def committed(self, author: Author, tokens: int, verdict: Verdict | None) -> None:
        """A step was committed, with the verdict on the candidate of its position."""

    def level(self) -> Speculation:
        """How far to speculate from here on."""


class Ungoverned:
    """Full speculation, whatever happens."""

    def began(self, start: Start, at: float) -> None:
        """See Governs."""

    def progressed(self, start: Start, tokens: int, at: float) -> None:
        """See Governs."""

    def drafted(self, seconds: float) -> None:
        """See Governs."""

    def judged(self, seconds: float) -> None:
        """See Governs."""

    def ended(self, start: Start, at: float) -> None:
        """See Governs."""

    def committed(self, author: Author, tokens: int, verdict: Verdict | None) -> None:
        """See Governs."""

    def level(self) -> Speculation:
        """See Governs."""
        return Speculation.FULL
