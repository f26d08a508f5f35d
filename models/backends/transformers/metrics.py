"""The engine's counts as Triton custom metrics, named as vLLM names its own, with our prefix."""

from typing import Any

from .computes import Store
from .engine import EngineCounts

_GAUGES = {
    "num_requests_running": "Requests that are being computed",
    "num_requests_waiting": "Requests that wait for a place",
    "prefix_cache_bytes": "Bytes of keys and values kept for sharing",
    "prefix_cache_entries": "Sequences kept for sharing",
    "last_token_timestamp_seconds": "Unix time at which the last token was computed",
}
_COUNTERS = {
    "prompt_tokens_total": "Prompt tokens computed (those reused not counted)",
    "generation_tokens_total": "Tokens generated, those of cancelled requests too",
    "requests_cancelled_total": "Requests that their caller cancelled",
    "requests_failed_total": "Requests that ended with an error",
    "prefix_cache_queries_total": "Prompts looked up for a shared prefix",
    "prefix_cache_hits_total": "Prompts for which a shared prefix was found",
    "prefix_cache_hit_tokens_total": "Prompt tokens reused",
    "prefix_cache_evictions_total": "Entries put out to stay within kv_cache_memory_bytes",
}


class Metrics:
    """Metric families of one model; only what has changed is passed on, since each call crosses processes."""

    def __init__(self, utils: Any, labels: dict[str, str]) -> None:
        # A family lives as long as the object: both are kept.
        self._families: list[Any] = []
        self._metrics: dict[str, Any] = {}
        self._values: dict[str, float] = {}
        for names, kind in ((_GAUGES, utils.MetricFamily.GAUGE), (_COUNTERS, utils.MetricFamily.COUNTER)):
            for name, text in names.items():
                family = utils.MetricFamily(name=f"transformers:{name}", description=text, kind=kind)
                self._families.append(family)
                self._metrics[name] = family.Metric(labels=labels)
                self._values[name] = 0.0

    def report(self, counts: EngineCounts, store: Store) -> None:
        """Pass on the state of the engine and the store."""
        self._set("generation_tokens_total", counts.generated_tokens)
        self._set("last_token_timestamp_seconds", counts.last_token_time)
        self._set("prompt_tokens_total", counts.prompt_tokens)
        self._set("requests_cancelled_total", counts.cancelled)
        self._set("requests_failed_total", counts.failed)
        self._set("prefix_cache_bytes", store.bytes)
        self._set("prefix_cache_entries", len(store))
        self._set("prefix_cache_queries_total", store.counts.queries)
        self._set("prefix_cache_hits_total", store.counts.hits)
        self._set("prefix_cache_hit_tokens_total", store.counts.hit_tokens)
        self._set("prefix_cache_evictions_total", store.counts.evictions)
        # Last, so that whoever sees the engine at rest sees the rest of its figures too.
        self._set("num_requests_waiting", counts.waiting)
        self._set("num_requests_running", counts.active)

    def _set(self, name: str, value: float) -> None:
        before = self._values[name]
        if value == before:
            return
        self._values[name] = value
        if name in _COUNTERS:
            self._metrics[name].increment(value - before)
        else:
            self._metrics[name].set(value)
