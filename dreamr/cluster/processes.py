"""Child processes that end with us, say when they are ready, and leave a log."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

# Run between fork and exec, in an interpreter of its own: a hook in the forked process of a program with
# threads could hang. The kernel then ends the child (gracefully) when this program dies, however it dies.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 15)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit('the parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def dying_with_parent(*command: str) -> tuple[str, ...]:
    """The command line that runs `command` for as long as this process lives."""
    return sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command


class ProcessError(RuntimeError):
    """A child did not start, or ended; the message ends with its log's last lines."""


class Child:
    """One child process.

    Args:
        name: for messages and the log's file name.
        command: absolute path of the program, and its arguments.
        log: where its stderr goes.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, env: dict[str, str]) -> None:
        self.name = name
        self._command = list(command)
        self._log = log
        self._env = env
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Process id; the process must have been started."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the process."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *dying_with_parent(*self._command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self._env,
                start_new_session=True,
            )

    async def line(self, start: str, seconds: float) -> str:
        """The first line of its output that begins with `start`.

        Raises:
            ProcessError: it ended, or said nothing of the kind in time.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                while line := (await self._process.stdout.readline()).decode(errors="replace"):
                    if line.startswith(start):
                        return line.strip()
        except TimeoutError:
            raise ProcessError(f"{self.name} was not ready after {seconds:g} s\n{self.tail()}") from None
        raise ProcessError(f"{self.name} ended while starting\n{self.tail()}")

    async def ended(self) -> int:
        """Waits for its end and returns its status."""
        assert self._process is not None
        return await self._process.wait()

    def kill(self) -> None:
        """SIGKILL, at once."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Sends a signal to it, if it runs."""
        # It may have ended, and asyncio not have heard of it yet.
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, number)

    async def stop(self, seconds: float = 10.0) -> None:
        """TERM, wait, KILL; harmless when it has ended."""
        if self._process is None:
            return
        try:
            if self.running:
                self.signal(signal.SIGTERM)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        try:
            return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-lines:])
        except OSError:
            return ""
