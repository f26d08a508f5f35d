"""Notices a Triton that is locked up: it lives, calls itself ready, and no stream gets an answer."""

import asyncio

from cryptography import x509

from dreamr.cluster.triton import TritonServer
from dreamr.tls import Tls

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

    name = await asyncio.to_thread(_name, server.tls) if server.tls else ""
    triton = TritonModel(server.grpc_address, "none", name, server.tls)
    silent, answered = 0, False
    try:
        while silent < PATIENCE:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await triton.knock(EVERY_SECONDS)
            except ServiceError as error:
                # A connection may break off or not come about, for the same reason; but one that never did
                # has another, such as a certificate.
                silent = silent + 1 if server.pid and (answered or isinstance(error, LateError)) else 0
            else:
                silent, answered = 0, True
    finally:
        await triton.close()


def _name(tls: Tls) -> str:
    """A name that Triton's own certificate has."""
    certificate = x509.load_pem_x509_certificate(tls.read().cert or b"")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)[0]
