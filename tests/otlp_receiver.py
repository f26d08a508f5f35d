"""A collector of traces within the test's process, over real gRPC."""

from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it arrived; times in nanoseconds."""

    service: str
    name: str
    trace: str
    id: bytes
    parent: bytes
    began: int
    ended: int
    failed: bool
    attributes: dict[str, Any]

    def overlaps(self, other: "Received") -> bool:
        """Whether both were under way at some time."""
        return self.began < other.ended and other.began < self.ended


@dataclass(slots=True)
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    spans: list[Received] = field(default_factory=list)

    async def Export(self, request: Any, context: Any) -> Any:
        """See the proto."""
        for resource in request.resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    Received(
                        service,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id,
                        span.parent_span_id,
                        span.start_time_unix_nano,
                        span.end_time_unix_nano,
                        span.status.code == span.status.STATUS_CODE_ERROR,
                        _values(span.attributes),
                    )
                )
        return trace_service_pb2.ExportTraceServiceResponse()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Adds it to a server."""
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]


def _values(attributes: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in attributes}
