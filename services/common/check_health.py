"""`python -m services.common.check_health`: whether this container's services are healthy, for its engine.

It asks those whose `DREAMR_*_LISTEN` stands in the environment (Triton answers grpc.health.v1, too), by TLS
where `DREAMR_*_TLS_CA` and the like do. Exits with 0 if all of them serve, else with 1 and a reason.
"""

import asyncio
import os
import sys
from pathlib import Path

from dreamr.errors import TlsError
from dreamr.tls import SERVERS, Tls
from services.common.channel import open_channel
from services.common.errors import UnavailableError
from services.common.health import probe_health

# Where who listens everywhere is reached from within.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nothing listens here


async def check(role: str, listen: str, tls: Tls | None) -> None:
    """Returns when the service of that role serves.

    Args:
        listen: the address that it was told to listen at.

    Raises:
        TlsError: a file of `tls` cannot be used.
        UnavailableError: it does not serve, or cannot be reached; names the role.
    """
    host, port = listen.rsplit(":", 1)
    async with open_channel(f"{_EVERYWHERE.get(host, host)}:{port}", role, tls) as channel:
        await probe_health(channel, role)


async def _check_all() -> None:
    found = {role: os.environ.get(f"DREAMR_{role.upper()}_LISTEN") for role in SERVERS}
    if not any(found.values()):
        raise UnavailableError("no DREAMR_*_LISTEN in the environment says whom to ask")
    for role, listen in found.items():
        if listen:
            await check(role, listen, _tls(f"DREAMR_{role.upper()}_TLS"))


def _tls(prefix: str) -> Tls | None:
    ca, cert, key = (
        Path(value) if (value := os.environ.get(f"{prefix}_{name}")) else None
        for name in ("CA", "CERT", "KEY")
    )
    return Tls(ca, cert, key) if cert else None


def main() -> None:
    """Asks, and exits."""
    try:
        asyncio.run(_check_all())
    except (UnavailableError, TlsError) as error:
        sys.stderr.write(f"not healthy: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
