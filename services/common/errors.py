"""Errors of the services, and the one table that maps them to gRPC statuses and HTTP codes.

ServiceError
├── InvalidRequestError   a field is wrong; the message names it and its limit
├── NotFoundError         there is no such session
├── SessionCancelledError somebody asked for the session's end
├── DivergedError         the session is not the one that the caller knows
├── OverloadedError       a bound is reached; try again later
├── UnavailableError      a part that is needed is down
│   └── HandedOverError   it is not this gateway's session any more: another one goes on with it
├── LateError             the deadline passed
├── UnauthenticatedError  the caller has not shown who it is
├── ForbiddenError        the caller's certificate is not one that may call
└── BrokenError           a part answered what it should not
"""

import re
from dataclasses import dataclass
from http import HTTPStatus

import grpc

CONTEXT_TOO_LONG = re.compile(r"maximum (model|context) length|too long to fit", re.IGNORECASE)
"""What engines say of a prompt that their model cannot take."""


class ServiceError(Exception):
    """Base of all; the message is meant for the caller."""


class InvalidRequestError(ServiceError):
    """The caller's request cannot be served as it is."""

    @classmethod
    def of(cls, field: str, what: str) -> "InvalidRequestError":
        """Names the field first, so that a caller finds it."""
        return cls(f"{field}: {what}")


class NotFoundError(ServiceError):
    """What was asked for is not there, or not any more."""


class SessionCancelledError(ServiceError):
    """The session was cancelled by a call to `Cancel`."""


class DivergedError(ServiceError):
    """The session went on otherwise than its client was told."""


class OverloadedError(ServiceError):
    """A bound on requests, sizes or queues is reached.

    Attributes:
        retry_after: seconds after which it may be worth to try again, where that is known.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(ServiceError):
    """A part of the cluster cannot be reached or is shutting down."""


class HandedOverError(UnavailableError):
    """Another gateway has the session, or may have it from now on."""


class LateError(ServiceError):
    """The deadline passed before the work was done."""


class UnauthenticatedError(ServiceError):
    """The caller has shown no key, or one that is not valid."""


class ForbiddenError(ServiceError):
    """The caller has shown who it is, and may not call."""


class BrokenError(ServiceError):
    """A part failed in a way that is its own fault."""


@dataclass(frozen=True, slots=True)
class Status:
    """How an error looks from outside."""

    grpc: grpc.StatusCode
    http: HTTPStatus


STATUSES: dict[type[ServiceError], Status] = {
    InvalidRequestError: Status(grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    NotFoundError: Status(grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND),
    SessionCancelledError: Status(grpc.StatusCode.CANCELLED, HTTPStatus.GONE),
    DivergedError: Status(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT),
    OverloadedError: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, HTTPStatus.TOO_MANY_REQUESTS),
    UnavailableError: Status(grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE),
    LateError: Status(grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT),
    UnauthenticatedError: Status(grpc.StatusCode.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED),
    ForbiddenError: Status(grpc.StatusCode.PERMISSION_DENIED, HTTPStatus.FORBIDDEN),
    BrokenError: Status(grpc.StatusCode.INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR),
}

_ERRORS = {
    **{status.grpc: error for error, status in STATUSES.items()},
    # Nobody here cancelled it: the other side went away.
    grpc.StatusCode.CANCELLED: UnavailableError,
    # Parts know no sessions.
    grpc.StatusCode.FAILED_PRECONDITION: BrokenError,
    # A part that refuses this service is set up wrongly: the caller's own rights are not in question.
    grpc.StatusCode.UNAUTHENTICATED: BrokenError,
    grpc.StatusCode.PERMISSION_DENIED: BrokenError,
}


def status_of(error: ServiceError) -> Status:
    """The status of an error, by its class or the next one above that has one."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def error_of(code: grpc.StatusCode) -> type[ServiceError]:
    """What another part's status means; what has no place in the table is that part's fault."""
    return _ERRORS.get(code, BrokenError)


def from_rpc(error: grpc.aio.AioRpcError, part: str) -> ServiceError:
    """What a failed call to `part` (or to Triton) means to the caller."""
    kind = error_of(error.code())
    detail = error.details() or error.code().name
    # The caller's own fault is told in the words of the part that found it.
    return kind(detail if kind is InvalidRequestError else f"{part}: {detail}")
