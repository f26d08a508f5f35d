"""Notices a Triton that is locked up: it lives, calls itself ready, and no stream gets an answer."""

import asyncio

from dreamr.cluster.triton import TritonServer

EVERY_SECONDS = 5.0
"""Between two looks; so long a stream may wait, too."""
PATIENCE = 3
"""Looks in a row without an answer. A machine that swaps, or a Triton that was stopped for a moment, is no
reason to lose what the models keep of their prompts.
"""


async def locked_up(server: TritonServer) -> None:
    """Waits until a running Triton is locked up. That it has ended is not that."""
    # Costs a second of every command's start otherwise.
    from services.common.errors import LateError, ServiceError
    from services.common.triton import TritonModel

    triton = TritonModel(server.grpc_address, "none", server.tls_name if server.tls else "", server.tls)
    silent, answered, pid = 0, False, server.pid
    try:
        while silent < PATIENCE:
            await asyncio.sleep(EVERY_SECONDS)
            if server.pid != pid:
                # Somebody has started it anew.
                silent, answered, pid = 0, False, server.pid
            try:
                await triton.knock(EVERY_SECONDS)
            except ServiceError as error:
                # A connection may break off or not come about, for the same reason; but one that never did
                # has another, such as a certificate.
                silent = silent + 1 if pid and (answered or isinstance(error, LateError)) else 0
            else:
                silent, answered = 0, True
    finally:
        await triton.close()
