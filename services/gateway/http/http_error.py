"""Errors in the shape of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

import math
import re
from http import HTTPStatus
from typing import Any

from services.common.errors import (
    CONTEXT_TOO_LONG,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
    status_of,
)

# How messages of InvalidRequestError begin, and what the fields are called in OpenAI's API.
_FIELD = re.compile(r"^([a-z_-]+(?:\[\d+\])?(?:\.[a-z_]+(?:\[\d+\])?)*): ")
_RENAMED = (
    (re.compile(r"^(?:options\.)?sampling\."), ""),
    (re.compile(r"^options\."), "dreamr."),
    (re.compile(r"^request_id(?=: )"), "idempotency-key"),
)
_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
_CODES = {
    HTTPStatus.UNAUTHORIZED: "invalid_api_key",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_exceeded",
    HTTPStatus.SERVICE_UNAVAILABLE: "unavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "timeout",
    HTTPStatus.GONE: "cancelled",
}


class HttpError(Exception):
    """What an HTTP client is told instead of an answer.

    Attributes:
        param: which field it is about.
        code: for programs.
        retry_after: seconds after which it may be worth to try again.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code or _CODES.get(status)
        self.retry_after = retry_after

    @classmethod
    def of(cls, error: ServiceError, *, openai: bool = True) -> "HttpError":
        """By the one table of statuses.

        Args:
            openai: fields are called as in OpenAI's API, not as in our own.
        """
        message, param, code = str(error), None, None
        if isinstance(error, InvalidRequestError) and not openai:
            param = found[1] if (found := _FIELD.match(message)) else None
            code = "context_length_exceeded" if CONTEXT_TOO_LONG.search(message) else None
        elif isinstance(error, InvalidRequestError):
            for pattern, name in _RENAMED:
                message = pattern.sub(name, message)
            if found := _FIELD.match(message):
                param = "messages" if found[1].startswith(("question", "images")) else found[1]
            if CONTEXT_TOO_LONG.search(message):
                param, code = param or "messages", "context_length_exceeded"
        return cls(
            status_of(error).http,
            message,
            param=param,
            code=code,
            retry_after=error.retry_after if isinstance(error, OverloadedError) else None,
        )

    def body(self) -> dict[str, Any]:
        """The response's JSON."""
        server = self.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = _TYPES.get(self.status, "server_error" if server else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """The response's headers; seconds are whole there, and never too few."""
        headers = {}
        if self.status in (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.GATEWAY_TIMEOUT):
            # OpenAI's client would ask twice more: the same failure, for three times the work.
            headers["x-should-retry"] = "false"
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status is HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return headers


def refused(param: str, what: str, code: str | None = None) -> HttpError:
    """A field that cannot be taken as it is."""
    return HttpError(HTTPStatus.BAD_REQUEST, f"{param}: {what}", param=param, code=code)
