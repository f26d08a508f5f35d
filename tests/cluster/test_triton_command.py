"""`dreamr triton`: what a container runs, as a process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dreamr.cluster.ports import free_port
from services.common.check_health import check
from services.common.errors import UnavailableError

pytestmark = pytest.mark.cluster

START_SECONDS, END_SECONDS = 120, 60


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-c", "from dreamr.cli import main; main()", "triton", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stderr is not None
    # Triton's log: a full pipe would hold it up.
    reading = asyncio.create_task(process.stderr.read())
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


async def ready(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
    assert line.startswith("ready "), line
    return line.split()[1]


@pytest.fixture
def worker() -> tuple[list[str], str]:
    """A draft worker's arguments, and where the service listens."""
    ports: list[int] = []
    for _ in range(3):
        ports.append(free_port("127.0.0.1", ports))
    triton, metrics, draft = (f"127.0.0.1:{port}" for port in ports)
    service = [sys.executable, "-m", "services.draft", f"--listen={draft}", f"--triton={triton}"]
    return [f"--listen={triton}", f"--metrics={metrics}", "--models=draft", "--", *service], draft


async def test_a_worker_serves_until_told_to_stop(worker: tuple[list[str], str]) -> None:
    arguments, draft = worker
    async with running(*arguments) as process:
        # Triton first, and the service when it has found its model.
        triton = await ready(process)
        await check("triton", triton, None)
        assert await ready(process) == draft
        await check("draft", draft, None)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), END_SECONDS) == 0
        for role, address in (("draft", draft), ("triton", triton)):
            with pytest.raises(UnavailableError):
                await check(role, address, None)


async def test_both_end_when_the_service_does(worker: tuple[list[str], str]) -> None:
    arguments, _ = worker
    async with running(*arguments) as process:
        triton = await ready(process)
        await ready(process)
        (service,) = [pid for pid in children(process.pid) if b"services.draft" in command_of(pid)]
        os.kill(service, signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), END_SECONDS) == 1
        with pytest.raises(UnavailableError):
            await check("triton", triton, None)


async def test_both_end_when_triton_does(worker: tuple[list[str], str]) -> None:
    arguments, draft = worker
    async with running(*arguments) as process:
        await ready(process)
        await ready(process)
        (triton,) = [pid for pid in children(process.pid) if b"tritonserver" in command_of(pid)]
        os.kill(triton, signal.SIGKILL)
        assert await asyncio.wait_for(process.wait(), END_SECONDS) == 1
        with pytest.raises(UnavailableError):
            await check("draft", draft, None)


async def test_a_command_that_is_not_there_ends_it() -> None:
    address = f"127.0.0.1:{free_port('127.0.0.1')}"
    async with running(
        f"--listen={address}", "--metrics=127.0.0.1:0", "--models=draft", "--", "nonsense"
    ) as process:
        await ready(process)
        assert await asyncio.wait_for(process.wait(), END_SECONDS) == 1


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def command_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
