"""How long the models take on one CPU thread, with transformers' own forward: a lead, not a benchmark."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

CONTEXT_TOKENS = 200
JUDGED_TOKENS = 38


@torch.inference_mode()
def measure(folders: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Median milliseconds of one decoded token, and of judging a step on a cached prefix."""
    found = {}
    for name, folder in folders.items():
        model = LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True
        ).eval()
        decoder = model.model.language_model

        def forward(tokens: int, decoder: torch.nn.Module = decoder) -> Callable[[], object]:
            prefix = decoder(torch.full((1, CONTEXT_TOKENS), 50), use_cache=True).past_key_values
            ids = torch.full((1, tokens), 50)

            def once() -> None:
                cache = DynamicCache([(layer.keys, layer.values) for layer in prefix.layers])
                decoder(ids, past_key_values=cache, use_cache=True)

            return once

        found[name] = {"token": _median(forward(1)), "judgement": _median(forward(JUDGED_TOKENS))}
    return found


def _median(work: Callable[[], object]) -> float:
    times = []
    for _ in range(60):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times[10:]) * 1000
