"""One HTTP request and its response: bounded in size and time, and over when the client leaves."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from services.common.channel import MAX_MESSAGE_BYTES
from services.common.errors import LateError
from services.gateway.http.http_error import HttpError, refused

MAX_BODY_BYTES = MAX_MESSAGE_BYTES
"""As large as a message over gRPC; images are a third larger in base64."""
MAX_BODY_COMMAS = 200_000
"""An empty object of three bytes takes tens of times as many as Python's; base64 has no commas."""
BODY_SECONDS = 60.0
"""How long a request may be on its way."""
_TIMEOUT = "dreamr-timeout"
_BEAT_SECONDS = 15.0
"""Between two comments in a stream that has nothing to say: whoever is between must not think it dead."""

_GUARDS = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}
"""Other sites' pages may not as much as embed what is answered here."""


class ClientGoneError(Exception):
    """The client has hung up."""


class Exchange:
    """A request whose head has arrived.

    Args:
        seconds: until its deadline, at most.

    Attributes:
        deadline: the event loop's time.
        head: further headers of the response.
        streams: the head of an event stream has been sent.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
        self.headers = Headers(scope=scope)
        self.path_params: dict[str, Any] = scope.get("path_params", {})
        self.deadline = asyncio.get_running_loop().time() + seconds
        self.head: dict[str, str] = {}
        self.streams = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._sending = asyncio.Lock()
        self._read = asyncio.Event()
        if scope["method"] != "POST":
            self._read.set()  # nothing follows

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """The headers, as gRPC would give them."""
        return list(self.headers.items())

    @property
    def roles(self) -> tuple[str, ...]:
        """What the client's certificate names."""
        found: tuple[str, ...] = self._scope["state"]["roles"]
        return found

    @property
    def timeout(self) -> float | None:
        """Seconds until the deadline, where a header asks for that.

        Raises:
            HttpError: it is no number of seconds.
        """
        given = self.headers.get(_TIMEOUT)
        if given is None:
            return None
        try:
            seconds = float(given)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            raise refused(_TIMEOUT, "must be a number of seconds")
        return seconds

    def within(self, seconds: float) -> None:
        """Brings the deadline forward."""
        self.deadline = min(self.deadline, asyncio.get_running_loop().time() + seconds)

    async def json(self) -> Any:
        """The request's body.

        Raises:
            HttpError: it is no JSON, too large, of too many values, or compressed.
            LateError: it is too long on its way.
            ClientGoneError: the client left before its end.
        """
        if self.headers.get("content-encoding", "identity") != "identity":
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-encoding: compressed bodies are not taken"
            )
        # Other types can be sent by any web page that a user of this machine looks at.
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-type: must be application/json")
        if int(self.headers.get("content-length", 0)) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body()
        except TimeoutError as error:
            raise LateError(f"the request was not there after {BODY_SECONDS:g} s") from error
        if body.count(b",") > MAX_BODY_COMMAS:
            raise refused("body", f"has more than {MAX_BODY_COMMAS:,} commas")
        try:
            # Unlike Python's own parser it refuses halves of surrogates, and what is nested too deep.
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise refused("body", f"is not JSON: {error}") from error

    async def _body(self) -> bytearray:
        body = bytearray()
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                raise _too_large()
            if not message.get("more_body"):
                self._read.set()
                return body

    async def gone(self) -> None:
        """Returns when the client has left; what it sends is read by `json` before."""
        await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def reply(self, status: int, body: Any) -> None:
        """Sends the whole response; bytes as they are, all else as JSON."""
        data = body if isinstance(body, bytes) else as_json(body)
        headers = {"content-type": "application/json", "content-length": str(len(data)), **self.head}
        async with self._sending:
            await self._start(status, headers)
            await self._send({"type": "http.response.body", "body": data})

    async def event(self, data: Any) -> None:
        """Sends one event of a stream; a string as it is, all else as JSON."""
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        async with self._sending:
            if not self.streams:
                self.streams = True
                headers = {
                    "content-type": "text/event-stream; charset=utf-8",
                    "cache-control": "no-store",
                    # Or nginx would keep events until it has enough of them.
                    "x-accel-buffering": "no",
                    **self.head,
                }
                await self._start(HTTPStatus.OK, headers)
            await self._write(f"data: {text}\n\n")

    async def beat(self) -> None:
        """Sends comments where a stream is silent, for ever."""
        while True:
            await asyncio.sleep(_BEAT_SECONDS)
            if self.streams:
                async with self._sending:
                    await self._write(": \n\n")

    async def close(self) -> None:
        """Ends a stream."""
        async with self._sending:
            await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, problem: HttpError) -> None:
        """Tells what is wrong: by a response, or in a stream that has begun."""
        if self.streams:
            await self.event(problem.body())
            await self.close()
        else:
            self.head |= problem.headers()
            await self.reply(problem.status, problem.body())

    def abort(self) -> None:
        """Hangs up on a client that does not read."""
        self._scope["state"]["transport"].abort()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        sent = {**_GUARDS, **headers}
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()]
        await self._send({"type": "http.response.start", "status": int(status), "headers": raw})

    async def _write(self, text: str) -> None:
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def as_json(body: Any) -> bytes:
    """A response's body."""
    return json.dumps(body, ensure_ascii=False).encode()


def _too_large() -> HttpError:
    return HttpError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the request has more than {MAX_BODY_BYTES:,} bytes",
        code="request_too_large",
    )
