"""What several Tritons say of the models, put together."""

import pytest

from bench import models
from bench.models import Engine, engines


async def test_a_models_engines_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(
        model: str, running: int, waiting: int, last: float, tokens: int
    ) -> dict[tuple[str, str], float]:
        counts = {
            "num_requests_running": running,
            "num_requests_waiting": waiting,
            "last_token_timestamp_seconds": last,
            "generation_tokens_total": tokens,
        }
        return {(f"transformers:{name}", model): float(value) for name, value in counts.items()}

    said = {
        "first": told("draft", 1, 2, 50.0, 10) | told("target", 1, 0, 70.0, 100),
        "second": told("draft", 4, 0, 60.0, 20),
    }

    async def scrape(address: str) -> dict[tuple[str, str], float]:
        return said[address]

    monkeypatch.setattr(models, "scrape", scrape)
    assert await engines("first", "second") == {
        "draft": Engine(active=7, last_token=60.0, generated_tokens=30),
        "target": Engine(active=1, last_token=70.0, generated_tokens=100),
    }
