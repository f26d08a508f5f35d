"""What the state machine knows of the target's own work; no I/O, as there."""

from dataclasses import dataclass, field

from services.gateway.messages import Step


@dataclass(slots=True)
class Rival:
    """The target's own work on `index`; `step` is there once that position is written.

    A rival that `runs_on` goes through the positions by itself, and may be some steps ahead of the commits.
    One that failed before its position was in need of it is tried again when it is.
    """

    call: int
    index: int
    runs_on: bool
    wrote: bool = False
    ahead: list[Step] = field(default_factory=list)
    ended: bool = False
    failed: bool = False

    @property
    def step(self) -> Step | None:
        """What it wrote for `index`."""
        return self.ahead[0] if self.ahead else None

    @property
    def idle(self) -> bool:
        """It has no more to write, and only the call's end is still to come."""
        return self.ended or (bool(self.ahead) and (not self.runs_on or self.ahead[-1].closes))
