"""An event loop whose time jumps to the next thing that happens: hours of waiting take milliseconds."""

import asyncio
import selectors


class StuckError(RuntimeError):
    """Every task waits for something that will never happen."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never sleeps: what would be waited for is added to the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise StuckError("nothing is left that could happen")
            self.now += max(timeout, 0.0)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """For `asyncio.Runner(loop_factory=VirtualLoop)`. Its `time()` starts at 0 and is the virtual clock's.

    Only timers and what tasks do to one another can happen: no sockets, threads or processes.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now
