"""`dreamr up`"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from dreamr.cli.running import (
    MAX_DRAFT_WORKERS,
    MAX_GATEWAYS,
    PairOption,
    TlsOption,
    check_address,
    progress,
)
from dreamr.cluster.cluster import Cluster


def up(
    address: Annotated[
        str, typer.Option(help="HOST:PORT where the gateway listens.", callback=check_address)
    ] = "127.0.0.1:7000",
    http: Annotated[
        str,
        typer.Option(
            help="HOST:PORT where OpenAI clients are served; port 0 picks a free one.", callback=check_address
        ),
    ] = "127.0.0.1:7080",
    pair: PairOption = "bundled",
    repository: Annotated[
        Path | None,
        typer.Option(help="Triton's model repository, for a pair of your own.", exists=True, file_okay=False),
    ] = None,
    draft_workers: Annotated[
        int,
        typer.Option(min=1, max=MAX_DRAFT_WORKERS, help="Draft services, each with an engine of its own."),
    ] = 1,
    gateways: Annotated[
        int, typer.Option(min=1, max=MAX_GATEWAYS, help="Gateways, which serve the same sessions.")
    ] = 1,
    logs: Annotated[Path | None, typer.Option(help="Keep the logs in this folder.")] = None,
    tls: TlsOption = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="File of API keys (`dreamr keys`); without it everybody may call.", dir_okay=False),
    ] = None,
) -> None:
    """Start a cluster on this machine and keep it up until Ctrl-C."""
    cluster = Cluster(
        address,
        pair=pair,
        repository=repository,
        draft_workers=draft_workers,
        gateways=gateways,
        keep_logs=logs,
        tls=tls,
        http=http,
        settings={"DREAMR_GATEWAY_KEYS": str(keys.absolute())} if keys else None,
    )
    asyncio.run(_up(cluster))


async def _up(cluster: Cluster) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(cluster.start())
    told = asyncio.create_task(stop.wait())
    watching: asyncio.Task[None] | None = None
    try:
        with progress.status("starting Triton and the services"):
            await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        await starting
        sys.stdout.write(f"ready {','.join(cluster.gateways)} http {','.join(cluster.http)}\n")
        sys.stdout.flush()
        for name, server in cluster.tritons.items():
            progress.print(f"{name:9} {server.grpc_address}  metrics {server.metrics_address}")
        for name, where in cluster.addresses.items():
            metrics = cluster.metrics.get(name)
            progress.print(f"{name:9} {where}" + (f"  metrics {metrics}" if metrics else ""))
        watching = asyncio.create_task(cluster.watch(progress.print))
        await asyncio.wait({watching, told}, return_when=asyncio.FIRST_COMPLETED)
        if watching.done() and not stop.is_set():
            await watching
    finally:
        for task in (starting, told, watching):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        await cluster.stop()
