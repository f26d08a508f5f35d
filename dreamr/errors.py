"""What can go wrong for a caller.

DreamrError
├── InvalidRequestError   a field of the request is wrong; the message names it and its limit
├── NotFoundError         there is no such session, or not any more
├── SessionCancelledError the session was cancelled
├── DivergedError         the session went on otherwise than its client was told
├── OverloadedError       the cluster is full, or the request too large; try again later, or smaller
├── UnavailableError      the cluster cannot be reached, or its target model is down
├── DeadlineError         no answer within the time given
├── AuthenticationError   no API key was given, or one that is not valid
├── ForbiddenError        the certificate shown is not one that may ask
├── TlsError              files of a certificate are missing or do not belong together
├── KeyFileError          a gateway's file of API keys cannot be read
├── VersionFileError      the file of the draft's versions cannot be read
└── ServerError           the cluster failed in a way that is its own fault
"""

import grpc


class DreamrError(Exception):
    """Base of all errors of this package."""


class InvalidRequestError(DreamrError):
    """The request cannot be served as it is."""


class NotFoundError(DreamrError):
    """There is no such session."""


class SessionCancelledError(DreamrError):
    """Somebody cancelled the session."""


class DivergedError(DreamrError):
    """The session went on otherwise behind an earlier step: what was told of it before no longer holds."""


class OverloadedError(DreamrError):
    """A bound of the cluster is reached.

    Attributes:
        retry_after: seconds after which it may be worth to try again, where the cluster says.
    """

    retry_after: float | None = None


class UnavailableError(DreamrError):
    """The cluster cannot be reached, or cannot work."""


class DeadlineError(DreamrError):
    """The time given has passed."""


class AuthenticationError(DreamrError):
    """The gateway wants an API key, and this is none that it takes."""


class ForbiddenError(DreamrError):
    """Whoever has this certificate may not call the service."""


class TlsError(DreamrError, ValueError):
    """Files of a certificate cannot be used; the message names the setting and the file."""


class KeyFileError(DreamrError, ValueError):
    """A file of API keys cannot be read, or holds something else."""


class VersionFileError(DreamrError, ValueError):
    """A file of the draft's versions cannot be read, or holds something else."""


class ServerError(DreamrError):
    """Anything else."""


# gRFC A6.
_RETRY_KEY = "grpc-retry-pushback-ms"
# gRPC itself says CANCELLED, too: of calls under way when a server stops.
_CANCELLED_KEY = "dreamr-session-cancelled"

_BY_STATUS: dict[grpc.StatusCode, type[DreamrError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.CANCELLED: SessionCancelledError,
    grpc.StatusCode.FAILED_PRECONDITION: DivergedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
}


def from_rpc(error: grpc.aio.AioRpcError) -> DreamrError:
    """The error that a gRPC status stands for."""
    kind, trailing = _BY_STATUS.get(error.code(), ServerError), dict(error.trailing_metadata() or ())
    if kind is SessionCancelledError and _CANCELLED_KEY not in trailing:
        kind = UnavailableError
    found = kind(error.details() or error.code().name)
    if isinstance(found, OverloadedError):
        milliseconds = trailing.get(_RETRY_KEY)
        found.retry_after = int(milliseconds) / 1000 if milliseconds else None
    return found
