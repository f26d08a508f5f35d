"""`dreamr up`"""

import asyncio
import signal
import sys
from typing import Annotated

import typer

from dreamr.cli.running import progress
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.processes import ProcessError


def up(
    address: Annotated[str, typer.Option(help="Where the gateway listens.")] = "127.0.0.1:7000",
) -> None:
    """Start a cluster on this machine and keep it up until Ctrl-C."""
    asyncio.run(_up(address))


async def _up(address: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    cluster = Cluster(address)
    starting = asyncio.create_task(cluster.start())
    told = asyncio.create_task(stop.wait())
    failed: asyncio.Task[str] | None = None
    try:
        with progress.status("starting Triton and the services"):
            await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        await starting
        sys.stdout.write(f"ready {cluster.address}\n")
        sys.stdout.flush()
        for name, where in cluster.metrics.items():
            progress.print(f"{name:9} metrics at {where}/metrics")
        failed = asyncio.create_task(cluster.failed())
        await asyncio.wait({failed, told}, return_when=asyncio.FIRST_COMPLETED)
        if failed.done() and not stop.is_set():
            raise ProcessError(failed.result())
    finally:
        for task in (starting, told, failed):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await cluster.stop()
