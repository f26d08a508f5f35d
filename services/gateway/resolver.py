"""Where replicas are: a list of addresses, and of DNS names that stand for several."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger()

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as numbers; raises OSError when there is no telling."""

MOST_REPLICAS = 64
"""Of one service; each costs a connection and a watch."""

_SCHEME = "dns:"
_LOOKUP_SECONDS = 10.0


async def look_up(host: str, port: int) -> list[str]:
    """The system's resolver: hosts file, then DNS; A and AAAA."""
    try:
        async with asyncio.timeout(_LOOKUP_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that no name can have
        raise OSError(str(error)) from error
    return [str(address[0]) for *_, address in found]


class Resolver:
    """The addresses of one service's replicas.

    Args:
        targets: with commas between: `HOST:PORT` is one replica; `dns:///HOST:PORT` or `dns:HOST:PORT`, as
            gRPC writes it, is one for each address that HOST has.
        lookup: finds them.

    Attributes:
        changes: whether there is a name that may be resolved anew.
    """

    def __init__(self, targets: str, lookup: Lookup = look_up) -> None:
        self._lookup = lookup
        # What each target stands for, as last known.
        self._known = {
            target: [] if target.startswith(_SCHEME) else [target] for target in targets.split(",")
        }
        self._names = [target for target in self._known if target.startswith(_SCHEME)]
        self.changes = bool(self._names)

    def addresses(self) -> list[str]:
        """`HOST:PORT` of each replica that is known, once."""
        found = list(dict.fromkeys(address for known in self._known.values() for address in known))
        if len(found) > MOST_REPLICAS:
            log.warning("too many replicas", found=len(found), used=MOST_REPLICAS)
        return found[:MOST_REPLICAS]

    async def resolve(self) -> None:
        """Looks every name up; one that cannot be resolved now keeps the addresses it had."""
        await asyncio.gather(*map(self._resolve, self._names))

    async def _resolve(self, target: str) -> None:
        host, port = target.removeprefix(_SCHEME).removeprefix("///").rsplit(":", 1)
        try:
            found = await self._lookup(host.strip("[]"), int(port))
        except OSError as error:
            log.warning("name not resolved", name=target, reason=str(error) or type(error).__name__)
            return
        self._known[target] = sorted(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in found
        )
