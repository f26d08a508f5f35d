"""Runs a program of `examples/` as a user does."""

import asyncio
import sys

SECONDS = 60


async def run_example(name: str, *arguments: str) -> list[str]:
    """The lines that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, f"examples/{name}.py", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, error = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, error.decode()) == (0, "")
    return out.decode().splitlines()
