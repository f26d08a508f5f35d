"""Prometheus metrics that every service has."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

CALLS = Counter("dreamr_calls_total", "Calls that ended, by method and gRPC status", ["method", "status"])
CALL_SECONDS = Histogram("dreamr_call_seconds", "Time a call took, in seconds", ["method"], buckets=SECONDS)
ACTIVE_CALLS = Gauge("dreamr_active_calls", "Calls under way", ["method"])
LOOP_LAG = Histogram(
    "dreamr_event_loop_lag_seconds",
    "How much later than asked for the event loop woke a sleeping task, in seconds",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 1),
)
SPANS = Counter("dreamr_spans_total", "Spans of traces, by what became of them", ["fate"])
TASKS = Gauge("dreamr_event_loop_tasks", "Tasks of the event loop that have not ended")
