"""Free ports for servers that are about to start."""

import random
import socket
from collections.abc import Collection

# Below the range from which systems give ports to outgoing connections: one of those could take a port
# between its choice and its use, and on a busy machine does.
_FIRST, _LAST = 12_000, 32_000
_TRIES = 200


def free_port(host: str, taken: Collection[int] = ()) -> int:
    """A port on which nobody listens.

    Args:
        taken: ports that are spoken for.

    Raises:
        OSError: none was found.
    """
    for port in random.sample(range(_FIRST, _LAST), _TRIES):
        if port not in taken:
            with socket.socket() as found:
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    found.bind((host, port))
                except OSError:
                    continue
                return port
    raise OSError(f"no free port found on {host}")
