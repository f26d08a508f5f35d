"""`/v1/dreamr/reason`: a session with every event that it tells, in the JSON form of our own API."""

import asyncio
from typing import Any

from dreamr.v1 import gateway_pb2
from services.common.errors import LateError, ServiceError
from services.common.server import LAST_WORDS_SECONDS
from services.gateway.call import LocalCall
from services.gateway.http.exchange import Exchange
from services.gateway.http.http_error import HttpError, refused
from services.gateway.http.proto_json import message_of, told
from services.gateway.plan import MAX_STEPS
from services.gateway.service import ReasoningService

_MOST = {"images": 1024, "steps": MAX_STEPS}
"""What is counted before it is translated."""


class Reason:
    """Answers a `ReasonRequest` with a stream of `ReasonResponse`."""

    def __init__(self, service: ReasoningService) -> None:
        self._service = service

    async def __call__(self, exchange: Exchange) -> None:
        """See Behaviour."""
        request = _request(await exchange.json())
        if key := exchange.headers.get("idempotency-key"):
            request.request_id = key
        if (seconds := exchange.timeout) is not None:
            exchange.within(seconds)

        async def send(response: gateway_pb2.ReasonResponse) -> None:
            if response.HasField("started"):
                exchange.head["dreamr-session-id"] = response.started.session_id
            await exchange.event(told(response))

        try:
            async with asyncio.timeout_at(exchange.deadline + LAST_WORDS_SECONDS):
                await self._service.Reason(request, LocalCall(exchange.metadata, exchange.deadline, send))
                await exchange.close()
        except TimeoutError as error:
            raise LateError("the client did not read within the deadline") from error
        except ServiceError as error:
            raise HttpError.of(error, openai=False) from error


def _request(body: Any) -> gateway_pb2.ReasonRequest:
    """The message that a body stands for.

    Raises:
        HttpError: it is none.
    """
    if not isinstance(body, dict):
        raise refused("body", "must be a JSON object")
    for name, most in _MOST.items():
        if isinstance(given := body.get(name), list) and len(given) > most:
            raise refused(name, f"must be at most {most}, not {len(given)}")
    return message_of(body, gateway_pb2.ReasonRequest())
