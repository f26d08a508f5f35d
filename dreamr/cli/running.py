"""Runs a command against a cluster: the one that is named, or one of its own."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from dreamr.cluster.cluster import Cluster
from dreamr.tls import Tls

Result = TypeVar("Result")


def check_address(value: str | None) -> str | None:
    """A typer callback: refuses what is not HOST:PORT."""
    host, _, port = (value or "").rpartition(":")
    if value is not None and not (host and port.isdecimal() and int(port) <= 65535):
        raise typer.BadParameter(f"must be HOST:PORT, not {value!r}")
    return value


def check_addresses(value: str | None) -> str | None:
    """As `check_address`, for several with commas between."""
    for address in value.split(",") if value is not None else ():
        check_address(address)
    return value


AddressOption = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of a running gateway (or several, with commas); without it a cluster is started.",
        callback=check_addresses,
    ),
]

PairOption = Annotated[str, typer.Option(help="bundled, emulated:PROFILE, or the file of a pair's settings.")]

TlsOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with certificates, as `dreamr certs` writes it; without it nothing is encrypted.",
        exists=True,
        file_okay=False,
    ),
]

MAX_DRAFT_WORKERS = 16
MAX_GATEWAYS = 8

# More than these need more room than a gateway gives by itself; each may have a window of verdicts at once.
_USUAL_SESSIONS, _CALLS = 32, 8

progress = Console(stderr=True, highlight=False)
"""For everything that is not a result."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send questions, and what to show there; `cluster` is there when it is our own."""

    address: str
    cluster: Cluster | None
    tls: Tls | None


def write_report(path: Path | None, report: dict[str, Any]) -> None:
    """Writes a report as JSON, in a folder that need not be there; without a path it does not."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=2) + "\n")


def room_for(sessions: int) -> dict[str, str]:
    """Settings of services with room for so many sessions at once; the defaults where these do."""
    calls = str(sessions * _CALLS)
    return (
        {
            "DREAMR_GATEWAY_MAX_SESSIONS": str(sessions),
            **{
                f"DREAMR_{service}_MAX_CALLS": calls for service in ("DRAFT", "TARGET", "VERIFIER", "GATEWAY")
            },
        }
        if sessions > _USUAL_SESSIONS
        else {}
    )


@asynccontextmanager
async def cluster_at(
    address: str | None,
    pair: str = "bundled",
    draft_workers: int = 1,
    sessions: int = 1,
    tls: Path | None = None,
    repository: Path | None = None,
) -> AsyncIterator[Target]:
    """A cluster for the block; one that was started for it is stopped behind it.

    Args:
        sessions: that a cluster of our own must be able to run at once.
        tls: folder with certificates, for a cluster of our own and for its client.
        repository: Triton's, for a cluster of our own with a pair of one's own.
    """
    shown = Tls.of(tls) if tls else None
    if address is not None:
        yield Target(address, None, shown)
        return
    cluster = Cluster(
        pair=pair,
        repository=repository,
        draft_workers=draft_workers,
        settings=room_for(sessions),
        tls=tls,
    )
    with progress.status("starting Triton and the services"):
        await cluster.start()
    try:
        yield Target(cluster.address, cluster, shown)
    finally:
        with progress.status("stopping"):
            await asyncio.shield(cluster.stop())


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs to the end, or until SIGINT or SIGTERM, which cancel it: what was started is stopped first.

    Raises:
        KeyboardInterrupt: a signal ended it.
        Exception: as `work` does; of several at the same time the first.
    """

    async def guarded() -> Result:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except ExceptionGroup as group:
        raise _first(group) from group


def _first(error: Exception) -> Exception:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error
