"""Triton in the foreground, and a service beside it: what one container runs."""

import asyncio
import contextlib
import shutil
import sys
from collections.abc import AsyncIterator, Sequence

from dreamr.cluster.guard import locked_up
from dreamr.cluster.processes import ProcessError, dying_with_parent
from dreamr.cluster.triton import TritonServer


async def serve(
    server: TritonServer, command: Sequence[str], stop: asyncio.Event, stop_seconds: float
) -> None:
    """Runs Triton, and once it is ready the command, until told to stop; then the command ends first.

    Args:
        command: whose requests Triton serves; none if empty.
        stop_seconds: how long the command may take to drain before it is killed.

    Raises:
        OSError: there is no such command.
        ProcessError: one of the two ended by itself, or Triton is locked up; the other is stopped, too.
        TritonStartError: Triton did not start.
    """
    told = asyncio.create_task(stop.wait(), name="stop")
    starting = asyncio.create_task(server.start(), name="triton-start")
    try:
        await asyncio.wait({told, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        await starting
        sys.stdout.write(f"ready {server.grpc_address} metrics {server.metrics_address}\n")
        sys.stdout.flush()
        async with _beside(command, stop_seconds) as ends:
            ends[asyncio.create_task(server.ended(), name="triton-end")] = "Triton"
            locked = asyncio.create_task(locked_up(server), name="triton-guard")
            try:
                await asyncio.wait({told, locked, *ends}, return_when=asyncio.FIRST_COMPLETED)
                for task, name in ends.items():
                    if task.done() and not told.done():
                        raise ProcessError(f"{name} ended with status {task.result()}")
                if locked.done() and not told.done():
                    await locked
                    # It would not end by itself either.
                    server.kill()
                    raise ProcessError("Triton is locked up: it answers no stream any more")
            finally:
                await _cancel(locked, *ends)
    finally:
        await _cancel(told, starting)
        await server.stop()


@contextlib.asynccontextmanager
async def _beside(command: Sequence[str], seconds: float) -> AsyncIterator[dict[asyncio.Task[int], str]]:
    """The command during the block; yields a task that waits for its end, by the command's name."""
    if not command:
        yield {}
        return
    path = shutil.which(command[0])
    if path is None:
        raise FileNotFoundError(f"{command[0]}: no such command")
    process = await asyncio.create_subprocess_exec(*dying_with_parent(path, *command[1:]))
    try:
        yield {asyncio.create_task(process.wait(), name="command-end"): command[0]}
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), seconds)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
