"""Where traces go: a collector that speaks OTLP over gRPC. Imported only where one is named."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from services.common import tracing
from services.common.metrics import SPANS

log = structlog.get_logger()

QUEUE, BATCH = 8192, 512
"""Spans that wait to be sent, and those that are sent together. With a full queue the oldest are dropped."""
_EVERY_MS = 1_000
_SEND_SECONDS = 5.0
FLUSH_SECONDS = 3.0
"""What the drain grants to what is still to be sent."""


class CollectorExporter(SpanExporter):
    """Sends spans, from a thread of its processor's; what a collector does not take in time is lost.

    Args:
        endpoint: `http://HOST:PORT`, or `https://` for TLS.

    Attributes:
        taken: spans that do not wait any more.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._otlp = OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS)
        self._away = False
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See SpanExporter."""
        self.taken += len(spans)
        try:
            result = self._otlp.export(spans)
        except Exception as error:  # noqa: BLE001 - traces are no reason for anything to fail
            result = SpanExportResult.FAILURE
            log.debug("spans not sent", reason=str(error))
        sent = result is SpanExportResult.SUCCESS
        SPANS.labels("sent" if sent else "lost").inc(len(spans))
        if self._away is sent:
            self._away = not sent
            if sent:
                log.info("collector is there again", endpoint=self._endpoint)
            else:
                log.warning("collector is away: traces are lost", endpoint=self._endpoint)
        return result

    def shutdown(self) -> None:
        """See SpanExporter: a call under way ends."""
        self._otlp.shutdown()


class CollectorProcessor(BatchSpanProcessor):
    """Has spans wait for the exporter, and counts those that a full queue drops."""

    def __init__(self, exporter: CollectorExporter) -> None:
        super().__init__(exporter, QUEUE, _EVERY_MS, BATCH)
        self._exporter = exporter
        self._put = 0

    @property
    def waiting(self) -> int:
        """Spans that are still to be sent."""
        return self._put - self._exporter.taken

    def on_end(self, span: ReadableSpan) -> None:
        """See SpanProcessor."""
        super().on_end(span)
        if self.waiting < QUEUE:
            self._put += 1
        else:
            # This one has taken the place of the oldest.
            SPANS.labels("lost").inc()


@asynccontextmanager
async def collected(endpoint: str, service: str, share: float) -> AsyncIterator[None]:
    """Traces go to the collector for the block; at its end it is given FLUSH_SECONDS for the last ones."""
    # It would write on stderr, past our logs, for every batch.
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    exporter = CollectorExporter(endpoint)
    processor = CollectorProcessor(exporter)
    for fate in ("sent", "lost"):
        # There from the start: Prometheus sees no rise to the first value that it sees.
        SPANS.labels(fate)
    try:
        with tracing.traced(service, processor, share):
            yield
    finally:
        # It grants itself 30 seconds, whatever it is told; a daemon's thread does not hold the process.
        flushing = threading.Thread(target=processor.shutdown, name="flush-traces", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, FLUSH_SECONDS)
        if flushing.is_alive():
            log.warning("traces lost", spans=processor.waiting, reason=f"not sent within {FLUSH_SECONDS:g} s")
            exporter.shutdown()
