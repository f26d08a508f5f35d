"""What the models' engines say of themselves, through Triton's metrics."""

import asyncio
from dataclasses import dataclass

from dreamr.cluster.metrics import scrape

MODELS = ("draft", "target")
_PREFIX = "transformers:"


@dataclass(frozen=True, slots=True)
class Engine:
    """One model: requests running and waiting, and the Unix time of the last token it computed."""

    active: int
    last_token: float
    generated_tokens: int


async def engines(*metrics_addresses: str) -> dict[str, Engine]:
    """Both models' state now, each over all the Tritons that serve it."""
    servers = await asyncio.gather(*map(scrape, metrics_addresses))

    def values(name: str, model: str) -> list[float]:
        return [samples.get((f"{_PREFIX}{name}", model), 0.0) for samples in servers]

    return {
        model: Engine(
            int(sum(values("num_requests_running", model) + values("num_requests_waiting", model))),
            max(values("last_token_timestamp_seconds", model)),
            int(sum(values("generation_tokens_total", model))),
        )
        for model in MODELS
    }


async def at_rest(*metrics_addresses: str, seconds: float = 10.0) -> dict[str, Engine]:
    """Waits until neither model has a request.

    Raises:
        TimeoutError: one still has.
    """
    async with asyncio.timeout(seconds):
        # Triton tells its metrics only when asked.
        while True:
            found = await engines(*metrics_addresses)
            if not any(engine.active for engine in found.values()):
                return found
            await asyncio.sleep(0.02)
