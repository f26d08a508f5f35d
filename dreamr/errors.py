"""What can go wrong for a caller.

DreamrError
├── InvalidRequestError   a field of the request is wrong; the message names it and its limit
├── NotFoundError         there is no such session, or not any more
├── SessionCancelledError the session was cancelled
├── OverloadedError       the cluster is full, or the request too large; try again later, or smaller
├── UnavailableError      the cluster cannot be reached, or its target model is down
├── DeadlineError         no answer within the time given
├── ForbiddenError        the certificate shown is not one that may ask
├── TlsError              files of a certificate are missing or do not belong together
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


class OverloadedError(DreamrError):
    """A bound of the cluster is reached."""


class UnavailableError(DreamrError):
    """The cluster cannot be reached, or cannot work."""


class DeadlineError(DreamrError):
    """The time given has passed."""


class ForbiddenError(DreamrError):
    """Whoever has this certificate may not call the service."""


class TlsError(DreamrError, ValueError):
    """Files of a certificate cannot be used; the message names the setting and the file."""


class ServerError(DreamrError):
    """Anything else."""


_BY_STATUS: dict[grpc.StatusCode, type[DreamrError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.CANCELLED: SessionCancelledError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
}


def from_rpc(error: grpc.aio.AioRpcError) -> DreamrError:
    """The error that a gRPC status stands for."""
    kind = _BY_STATUS.get(error.code(), ServerError)
    return kind(error.details() or error.code().name)
