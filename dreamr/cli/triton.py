"""`dreamr triton`"""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from dreamr.cli.running import check_address
from dreamr.tls import Tls


def triton(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND...]", help="Runs beside Triton, and ends with it: a service with its model."
        ),
    ] = None,
    models: Annotated[
        str, typer.Option(envvar="DREAMR_TRITON_MODELS", help="Models to load, with commas; all if empty.")
    ] = "",
    repository: Annotated[
        Path | None,
        typer.Option(
            envvar="DREAMR_TRITON_REPOSITORY",
            help="Triton's model repository; the bundled pair's by default.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            envvar="DREAMR_TRITON_LISTEN", help="HOST:PORT of Triton's gRPC.", callback=check_address
        ),
    ] = "127.0.0.1:8001",
    metrics: Annotated[
        str,
        typer.Option(
            envvar="DREAMR_TRITON_METRICS",
            help="HOST:PORT of its Prometheus metrics.",
            callback=check_address,
        ),
    ] = "127.0.0.1:8002",
    binary: Annotated[
        Path | None,
        typer.Option(
            envvar="DREAMR_TRITON_BINARY",
            help="A tritonserver with backends of its own, such as NVIDIA's; the wheel's by default.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="DREAMR_TRITON_TLS_CERT", help="Triton's certificate (PEM).", dir_okay=False),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="DREAMR_TRITON_TLS_KEY", help="The certificate's key (PEM).", dir_okay=False),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="DREAMR_TRITON_TLS_CA", help="CA (PEM) of Triton's callers.", dir_okay=False),
    ] = None,
    tls_name: Annotated[
        str,
        typer.Option(envvar="DREAMR_TRITON_TLS_NAME", help="A DNS name that Triton's certificate is for."),
    ] = "triton",
    start_seconds: Annotated[
        float,
        typer.Option(
            envvar="DREAMR_TRITON_START_SECONDS", min=1, help="How long the models may take to load."
        ),
    ] = 120.0,
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar="DREAMR_TRITON_DRAIN_SECONDS", min=0, help="How long the command may take to end."
        ),
    ] = 15.0,
) -> None:
    """Run Triton in the foreground until SIGTERM, alone or with a service beside it: for containers."""
    from dreamr.cluster.serve import serve
    from dreamr.cluster.triton import MODELS, TritonServer

    tls = Tls(tls_ca, tls_cert, tls_key) if tls_cert or tls_key or tls_ca else None
    if tls:
        if not (tls.ca and tls.cert):
            raise typer.BadParameter("--tls-cert, --tls-key and --tls-ca go together")
        tls.read()
    host, port = listen.rsplit(":", 1)
    metrics_host, metrics_port = metrics.rsplit(":", 1)
    server = TritonServer(
        repository or MODELS / "repository",
        [name.strip() for name in models.split(",")] if models else None,
        binary=binary,
        host=host,
        metrics_host=metrics_host,
        http=False,
        grpc_port=int(port),
        metrics_port=int(metrics_port),
        log_path=Path("/dev/stderr"),
        tls=tls,
        tls_name=tls_name,
        start_seconds=start_seconds,
    )

    async def until_told() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(server, command or [], stop, drain_seconds)

    asyncio.run(until_told())
