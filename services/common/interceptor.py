"""The server interceptor: errors become statuses, and every call is counted. Cancellation passes through.

It reads a call's request itself: gRPC says UNKNOWN to bytes that are no message, nothing at all to a call
without one, and waits for a request for as long as the caller likes.
"""

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc
import structlog
from google.protobuf.message import DecodeError

from services.common import metrics, tracing
from services.common.errors import (
    InvalidRequestError,
    LateError,
    OverloadedError,
    ServiceError,
    SessionCancelledError,
    status_of,
)

if TYPE_CHECKING:
    # Generic for the type checker only.
    Handler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger()

REQUEST_SECONDS = 30.0
"""How long a request may be on its way once its call has begun."""

MAX_WATCHERS = 64
"""Streams of health and reflection at once: they are open to all, and may stay open for ever."""

Check = Callable[[str, "grpc.aio.ServicerContext[Any, Any]"], None]
"""Gets a call's full method name and its context; raises ServiceError when not even its request is read."""

RETRY_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata (gRFC A6): when an overloaded server is worth another try."""

CANCELLED_KEY = "dreamr-session-cancelled"
"""Trailing metadata: somebody asked for the end. gRPC says CANCELLED of calls that break off, too."""


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method, those of health and reflection as well; they are not checked.

    Args:
        checks: each tells, before its request is read, whether a call may go on.
    """

    def __init__(self, *checks: Check) -> None:
        self._checks = checks
        self._running: set[asyncio.Task[Any]] = set()
        self._watchers = 0

    async def idle(self, seconds: float) -> None:
        """Waits until no handler runs, for some seconds at most: a server that stops cancels, and goes."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None:
            return None
        allow = partial(self._allow, method)
        parse = partial(_parse, handler.request_deserializer or bytes)
        # On the wire one request looks like a stream of one, and a stream is read by the handler.
        if handler.unary_unary:
            behaviour = _unary(handler.unary_unary, method, allow, parse)
            return grpc.stream_unary_rpc_method_handler(
                self._watched(behaviour), None, handler.response_serializer
            )
        if handler.unary_stream:
            behaviour = _stream(handler.unary_stream, method, allow, parse)
        else:
            # Reflection.
            behaviour = _streams(handler.stream_stream, method, allow, parse)
        return grpc.stream_stream_rpc_method_handler(
            self._watched(behaviour, bounded=not _is_ours(method)), None, handler.response_serializer
        )

    def _allow(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Raises ServiceError where a call of ours is not to go on; its request has not been read then."""
        if _is_ours(method):
            for check in self._checks:
                check(method, context)

    def _watched(self, behaviour: Any, *, bounded: bool = False) -> Any:
        """The same behaviour, known to `idle` while it runs, and perhaps so often at once and no more."""

        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._entered(context, bounded=bounded):
                return await behaviour(request, context)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with self._entered(context, bounded=bounded), aclosing(behaviour(request, context)) as said:
                async for response in said:
                    yield response

        return unary if inspect.iscoroutinefunction(behaviour) else stream

    @asynccontextmanager
    async def _entered(
        self, context: grpc.aio.ServicerContext[Any, Any], *, bounded: bool
    ) -> AsyncIterator[None]:
        # gRPC runs each call in a task of its own.
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if bounded and self._watchers >= MAX_WATCHERS:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"the limit is {MAX_WATCHERS} streams of this kind"
            )
        self._watchers += bounded
        try:
            yield
        finally:
            self._watchers -= bounded


def _is_ours(method: str) -> bool:
    return method.startswith("/dreamr.")


Parse = Callable[[bytes], Any]


def _parse(deserializer: Parse, data: bytes) -> Any:
    """The message that bytes stand for.

    Raises:
        InvalidRequestError: they stand for none.
    """
    try:
        return deserializer(data)
    except DecodeError as error:
        raise InvalidRequestError.of("request", str(error)) from error


async def _request(context: Any, parse: Parse) -> Any:
    """The call's one request.

    Raises:
        InvalidRequestError: there is none, or it is no message of the method's type.
        LateError: it is too long on its way.
    """
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            data = await context.read()
    except TimeoutError as error:
        raise LateError(f"request: is not there after {REQUEST_SECONDS:g} s") from error
    if data is grpc.aio.EOF:
        raise InvalidRequestError.of("request", "is missing")
    return parse(data)


def _unary(behaviour: Any, method: str, allow: Callable[[Any], None], parse: Parse) -> Any:
    async def call(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        async with _Call(method, context) as begun:
            allow(context)
            begun.trace()
            return await behaviour(await _request(context, parse), context)

    return call


def _stream(behaviour: Any, method: str, allow: Callable[[Any], None], parse: Parse) -> Any:
    """A streaming method either yields its responses, or is a coroutine that writes them to its context."""
    if inspect.iscoroutinefunction(behaviour):
        return _unary(behaviour, method, allow, parse)

    async def call(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        async with _Call(method, context) as begun:
            allow(context)
            begun.trace()
            request = await _request(context, parse)
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return call


def _streams(behaviour: Any, method: str, allow: Callable[[Any], None], parse: Parse) -> Any:
    async def call(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        async with _Call(method, context):
            allow(context)
            parsed = (parse(data) async for data in requests)
            async with aclosing(behaviour(parsed, context)) as responses:
                async for response in responses:
                    yield response

    return call


def _trailing(error: BaseException | None) -> tuple[tuple[str, str], ...]:
    if isinstance(error, SessionCancelledError):
        return ((CANCELLED_KEY, "true"),)
    seconds = error.retry_after if isinstance(error, OverloadedError) else None
    return () if seconds is None else ((RETRY_KEY, str(math.ceil(seconds * 1000))),)


class _Call:
    """Counts one call and turns what it raises into a status."""

    def __init__(self, path: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._path = path
        self._method = path.rsplit("/", 1)[-1]
        self._context = context
        self._started = time.perf_counter()
        self._span: tracing.Span | None = None

    def trace(self) -> None:
        """Begins the call's span: who may not call at all has none, nor do health and reflection."""
        if _is_ours(self._path):
            name, metadata = self._path.removeprefix("/"), self._context.invocation_metadata()
            self._span = tracing.server_span(name, metadata, {"rpc.system": "grpc"}).__enter__()

    async def __aenter__(self) -> Self:
        metrics.ACTIVE_CALLS.labels(self._method).inc()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        metrics.ACTIVE_CALLS.labels(self._method).dec()
        metrics.CALL_SECONDS.labels(self._method).observe(time.perf_counter() - self._started)
        code, message = self._judge(error)
        metrics.CALLS.labels(self._method, code.name).inc()
        if _is_ours(self._path):
            log.debug("call ended", method=self._method, status=code.name)
        if self._span:
            self._span.set({"rpc.response.status_code": code.name})
            self._span.close(error)
        if message is not None:
            await self._context.abort(code, message, _trailing(error))

    def _judge(self, error: BaseException | None) -> tuple[grpc.StatusCode, str | None]:
        """The status to count, and the message to abort with if the error is ours to translate."""
        if error is None:
            return grpc.StatusCode.OK, None
        if isinstance(error, ServiceError):
            code = status_of(error).grpc
            log.info("call refused", method=self._method, status=code.name, reason=str(error))
            return code, str(error)
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            # grpc.aio cancels the handler when the client leaves or its deadline passes. A handler that
            # raised its own CancelledError would leave the client hanging, so it is made an error.
            if self._context.cancelled() or self._context.done():
                return grpc.StatusCode.CANCELLED, None
            task = asyncio.current_task()
            if isinstance(error, GeneratorExit) or (task and task.cancelling()):
                return grpc.StatusCode.CANCELLED, None
            return grpc.StatusCode.INTERNAL, "the call was cancelled from within"
        if isinstance(error, grpc.aio.AbortError):
            return grpc.StatusCode.UNKNOWN, None
        log.error("call failed", method=self._method, exc_info=error)
        return grpc.StatusCode.INTERNAL, "internal error; see the service's log"
