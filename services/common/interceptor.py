"""The server interceptor: errors become statuses, and every call is counted. Cancellation passes through."""

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from services.common import metrics
from services.common.errors import OverloadedError, ServiceError, status_of

if TYPE_CHECKING:
    # Generic for the type checker only.
    Handler = grpc.RpcMethodHandler[Any, Any]

log = structlog.get_logger()

Check = Callable[[str, "grpc.aio.ServicerContext[Any, Any]"], None]
"""Gets a call's full method name and its context; raises ServiceError when the handler is not to run."""

Admit = Callable[[str, Any], None]
"""Gets a call's full method name and its metadata; raises ServiceError when not even its request is read."""

RETRY_KEY = "grpc-retry-pushback-ms"
"""Trailing metadata (gRFC A6): when an overloaded server is worth another try."""


def anyone(method: str, context: Any) -> None:
    """A check that everybody passes."""


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and server-streaming methods; health and reflection pass through it as well.

    Args:
        check: whether a call may go on.
        admit: whether its request is to be read at all.
    """

    def __init__(self, check: Check = anyone, admit: Admit = anyone) -> None:
        self._check = check
        self._admit = admit
        self._running: set[asyncio.Task[Any]] = set()

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
        if handler is None or not method.startswith("/dreamr."):
            return handler
        check = partial(self._check, method)
        name = method.rsplit("/", 1)[-1]
        try:
            self._admit(method, handler_call_details.invocation_metadata)
        except ServiceError as refusal:
            return _refusing(refusal, name)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._watched(_unary(handler.unary_unary, name, check)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_stream_rpc_method_handler(
            self._watched(_stream(handler.unary_stream, name, check)),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _watched(self, behaviour: Any) -> Any:
        """The same behaviour, known to `idle` while it runs. gRPC runs each call in a task of its own."""

        def enter() -> None:
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            enter()
            return await behaviour(request, context)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            enter()
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        return unary if inspect.iscoroutinefunction(behaviour) else stream


def _refusing(refusal: ServiceError, method: str) -> "Handler":
    async def refuse(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
        async with _Call(method, context):
            raise refusal

    # Whatever the method is: only a handler of a stream runs before a message has been read.
    return grpc.stream_stream_rpc_method_handler(refuse)


def _unary(behaviour: Any, method: str, check: Callable[[Any], None]) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        async with _Call(method, context):
            check(context)
            return await behaviour(request, context)

    return call


def _stream(behaviour: Any, method: str, check: Callable[[Any], None]) -> Any:
    """A streaming method either yields its responses, or is a coroutine that writes them to its context."""
    if inspect.iscoroutinefunction(behaviour):
        return _unary(behaviour, method, check)

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        async with _Call(method, context):
            check(context)
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

    return call


def _trailing(error: BaseException | None) -> tuple[tuple[str, str], ...]:
    seconds = error.retry_after if isinstance(error, OverloadedError) else None
    return () if seconds is None else ((RETRY_KEY, str(math.ceil(seconds * 1000))),)


class _Call:
    """Counts one call and turns what it raises into a status."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._method = method
        self._context = context
        self._started = time.perf_counter()

    async def __aenter__(self) -> None:
        metrics.ACTIVE_CALLS.labels(self._method).inc()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        metrics.ACTIVE_CALLS.labels(self._method).dec()
        metrics.CALL_SECONDS.labels(self._method).observe(time.perf_counter() - self._started)
        code, message = self._judge(error)
        metrics.CALLS.labels(self._method, code.name).inc()
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
