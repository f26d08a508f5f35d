"""Reads Prometheus metrics of a running part."""

import asyncio
import urllib.request

from prometheus_client.parser import text_string_to_metric_families


async def scrape(address: str) -> dict[tuple[str, str], float]:
    """Samples of `http://ADDRESS/metrics` by name and model, or bound of a histogram, or neither (empty).

    Raises:
        OSError: the endpoint does not answer.
    """
    text = await asyncio.to_thread(_fetch, f"http://{address}/metrics")
    return {
        (sample.name, sample.labels.get("model") or sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape_labels(address: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and values of one metric's samples.

    Raises:
        OSError: the endpoint does not answer.
    """
    text = await asyncio.to_thread(_fetch, f"http://{address}/metrics")
    return [
        (dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - always http, and always ours
        content: bytes = response.read()
    return content.decode()
