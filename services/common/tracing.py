"""Traces: one for each session, across all services, by OpenTelemetry. Off unless a collector is named.

The hooks are our own: OpenTelemetry's for grpc.aio swallow cancellation (opentelemetry-python-contrib#3271).
A span is a block. It ends however the block does, also in another task's context, as when a generator is
closed. Where traces are off, a hook costs one look at a variable, and opentelemetry is not even imported.
"""

import asyncio
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import grpc

from services.common.errors import ServiceError, SessionCancelledError, status_of
from services.common.metadata import Metadata

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]
Kind = Literal["INTERNAL", "SERVER", "CLIENT"]

CANCELLED = "dreamr.cancelled"
"""Attribute of spans whose work was stopped: that is no error, and mostly what was wanted."""

_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Statuses that OpenTelemetry counts as a server's own errors, of those that there are here."""

_HEADERS = ("traceparent", "tracestate")  # W3C Trace Context


class Span:
    """One span, or none where traces are off. Use it as a block; within it further spans are its children."""

    __slots__ = ("_before", "_span")

    def __init__(self, span: "OtelSpan | None") -> None:
        self._span = span
        self._before: Span | None = None

    def __enter__(self) -> Self:
        if self._span is not None:
            self._before = current()
            _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """What a call within the span carries, so that its server's span is a child of this one."""
        if self._span is None:
            return None
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = dict[str, str]()
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return tuple(carrier.items())

    @property
    def origin(self) -> str:
        """Its `traceparent`, to go on with elsewhere; empty where its trace is not kept."""
        if self._span is None or not self._span.is_recording():
            return ""
        return dict(self.metadata or ())["traceparent"]

    def set(self, attributes: Attributes) -> None:
        """Adds attributes, or changes them."""
        if self._span is not None:
            self._span.set_attributes(attributes)

    def close(self, error: BaseException | None = None, *, refused: bool = False) -> None:
        """Ends the span, once; `with` does so by itself.

        Args:
            error: how its block ended. What is the caller's own fault is an answer like any other, and
            refused: says that of errors that are none of the services'.
        """
        if self._span is None:
            return
        ended, self._span = self._span, None
        # Not by a token, which knows one context alone. A generator may be closed in another one, and in its
        # own while what it has begun within is over, or another one has begun behind it.
        if _CURRENT.get() is self:
            _CURRENT.set(self._before)
        if isinstance(error, asyncio.CancelledError | GeneratorExit | SessionCancelledError):
            ended.set_attribute(CANCELLED, True)
        elif error is not None:
            from opentelemetry.trace import Status, StatusCode

            rpc = error.code() if isinstance(error, grpc.aio.AioRpcError) else None
            ended.set_attribute("error.type", rpc.name if rpc else type(error).__qualname__)
            if not refused and not (isinstance(error, ServiceError) and status_of(error).grpc not in _FAULTS):
                # What callers are told may be shown; who knows what another error quotes.
                told = str(error) if isinstance(error, ServiceError) else None
                ended.set_status(Status(StatusCode.ERROR, told))
        ended.end()

    def ids(self) -> dict[str, str]:
        """What ties a line of the log to the trace."""
        if self._span is None:
            return {}
        from opentelemetry.trace import format_span_id, format_trace_id

        context = self._span.get_span_context()
        return {"trace_id": format_trace_id(context.trace_id), "span_id": format_span_id(context.span_id)}


class _Switch:
    tracer: "Tracer | None" = None


NONE = Span(None)
"""Where traces are off."""
_CURRENT: ContextVar[Span | None] = ContextVar("dreamr_span", default=None)


def on() -> bool:
    """Whether there are traces."""
    return _Switch.tracer is not None


def span(
    name: str,
    attributes: Attributes | None = None,
    kind: Kind = "INTERNAL",
    *,
    begins: bool = False,
    origin: str = "",
) -> Span:
    """A child of the span that the caller is in.

    Args:
        begins: a trace of its own, where the caller is in none; else there is no span then, as for probes.
        origin: `Span.origin` of what this goes on with: it is a part of that trace, with a link to the span
            that the caller is in.
    """
    if _Switch.tracer is None:
        return NONE
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, SpanKind, set_span_in_context

    parent = current()._span
    if parent is None and not (begins or origin):
        return NONE
    within = Context() if parent is None else set_span_in_context(parent)
    links = list[Link]()
    if origin:
        within = _extracted({"traceparent": origin})
        links += [Link(parent.get_span_context())] if parent else []
    return Span(_Switch.tracer.start_span(name, within, SpanKind[kind], attributes, links))


def server_span(name: str, metadata: Metadata | None, attributes: Attributes | None = None) -> Span:
    """The span of a call that came in, within the trace that its caller's metadata names."""
    if _Switch.tracer is None:
        return NONE
    from opentelemetry.trace import SpanKind

    carrier = {key: value for key, value in metadata or () if key in _HEADERS and isinstance(value, str)}
    return Span(_Switch.tracer.start_span(name, _extracted(carrier), SpanKind.SERVER, attributes))


def _extracted(carrier: Mapping[str, str]) -> "Context":
    """Within the span that the headers name, and none of this process."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(carrier, Context())


def current() -> Span:
    """The span that the caller is in: of those begun here, the last that has not ended."""
    found = _CURRENT.get()
    while found is not None and found._span is None:
        found = found._before
    return found or NONE


def add_ids(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """A processor for structlog: every line within a span says which."""
    return event if _Switch.tracer is None else {**event, **current().ids()}


@contextmanager
def traced(service: str, processor: "SpanProcessor", share: float = 1.0) -> Iterator["TracerProvider"]:
    """Traces are on for the block, and what it covers goes to the processor.

    Args:
        service: its name in traces, as in logs.
        share: of the traces that begin here, those that are kept; others are as their callers say.
    """
    import os
    import socket

    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        resource=Resource.create(
            {"service.name": service, "service.instance.id": f"{socket.gethostname()}:{os.getpid()}"}
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(processor)
    _Switch.tracer = provider.get_tracer("dreamr")
    try:
        yield provider
    finally:
        _Switch.tracer = None
