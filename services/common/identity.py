"""Who may call which service, by the roles that certificates name."""

from collections.abc import Iterable
from typing import Any

import grpc

from services.common.errors import ForbiddenError

CALLERS = {
    "dreamr.v1.DraftService": {"gateway"},
    "dreamr.v1.TargetService": {"gateway", "verifier"},
    "dreamr.v1.CompletionService": {"gateway"},
    "dreamr.v1.VerifierService": {"gateway"},
    "dreamr.v1.ReasoningService": {"client", "gateway"},
}
"""Roles by service; nobody may call a service that is not here."""


def check_caller(method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Returns when the caller may call the method; the handshake has verified its certificate.

    Args:
        method: full name, such as `/dreamr.v1.DraftService/Draft`.

    Raises:
        ForbiddenError: the certificate names no role that may.
    """
    names = (name.decode() for name in context.auth_context().get("peer_dns", ()))
    check_roles(method.split("/")[1], names)


def check_roles(service: str, names: Iterable[str]) -> None:
    """Returns when who has a certificate with these DNS names may call a service.

    Raises:
        ForbiddenError: they name no role that may.
    """
    allowed, found = CALLERS.get(service, set()), set(names)
    if found.isdisjoint(allowed):
        shown = ", ".join(sorted(found)) or "a certificate without a DNS name"
        raise ForbiddenError(f"{service} may be called by {', '.join(sorted(allowed))}, not by {shown}")
