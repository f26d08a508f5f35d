"""The emulated model: sleeps instead of computing, and says what its script says."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Any

import numpy as np
import torch

from .blocks import BlockCache
from .profile import Latency
from .script import Asked, Script
from .words import END, IDS, PIECES, ids_of, text_of

_OTHERS = -30.0


@dataclass(frozen=True, slots=True)
class EmulatedPrompt:
    """As the engine's `Prompt`, and what is asked."""

    ids: tuple[int, ...]
    key: Any
    asked: Asked
    features: dict[str, Any] = field(default_factory=dict)
    images_start: int = 0
    images_end: int = 0


@dataclass(slots=True)
class EmulatedState:
    """Where a sequence stands: `length` tokens are computed, `reply` is what it will say."""

    prompt: EmulatedPrompt
    length: int
    reply: Iterator[tuple[str, float]]


class EmulatedEncoder:
    """Counts a prompt's tokens; an image takes as many as the profile says."""

    def __init__(self, image_tokens: int) -> None:
        self._image_tokens = image_tokens

    def is_quick(self, text: str, images: tuple[Any, ...]) -> bool:
        """Always."""
        return True

    def encode(self, text: str, images: tuple[Any, ...]) -> EmulatedPrompt:
        """Images stand in front; their pixels are not looked at."""
        marks = [-1 - int.from_bytes(image.digest[:7]) for image in images for _ in range(self._image_tokens)]
        ids = [*marks, *ids_of(text)]
        return EmulatedPrompt(tuple(ids), np.array(ids, dtype=np.int64), Asked.of(text))


class EmulatedRunner:
    """Stands where the runner of real models stands; the engine around it is the same.

    Iterations follow one another as the profile says: what the engine's own work took meanwhile is part of
    the published time of an iteration, and is slept the less.

    Args:
        sleep: takes seconds.
        now: a clock in seconds.
    """

    def __init__(
        self,
        latency: Latency,
        script: Script,
        max_model_len: int,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_model_len = max_model_len
        self.eos_ids = frozenset({IDS[END]})
        self.store = BlockCache(latency.cache_tokens)
        self._latency = latency
        self._script = script
        self._sleep = sleep
        self._now = now
        self._paid = False
        self._opened = 0
        self._free_at = -1.0

    def begin_iteration(self) -> None:
        """Whoever computes first in an iteration pays for it."""
        self._paid = False
        late = self._now() - self._free_at
        if self._opened == 0 or late > self._latency.iteration_ms / 1000:
            # It was idle (or cannot keep up): time begins anew.
            self._free_at += late

    def open(self, prompt: EmulatedPrompt, max_tokens: int) -> EmulatedState:
        """What of the prompt is cached costs nothing."""
        self._opened += 1
        return EmulatedState(prompt, self.store.find(prompt.key), self._script.reply(prompt.asked))

    def prefill(self, state: EmulatedState, budget: int) -> tuple[int, torch.Tensor | None]:
        """Takes the tokens' time."""
        count = min(budget, len(state.prompt.ids) - state.length)
        self._take(count / self._latency.prefill_tokens_per_second)
        state.length += count
        return count, self._logits(state) if state.length == len(state.prompt.ids) else None

    def decode(self, states: list[EmulatedState], tokens: list[int]) -> list[torch.Tensor | Exception]:
        """Takes one iteration's time for all of them."""
        self._take(len(states) * self._latency.sequence_ms / 1000)
        for state in states:
            state.length += 1
        return [self._logits(state) for state in states]

    def share(self, state: EmulatedState, key: Any) -> None:
        """Others may reuse what is computed so far."""
        self.store.put(key[: state.length])

    def close(self, state: EmulatedState) -> None:
        """Nothing is held but the count."""
        self._opened -= 1

    def text_of(self, ids: Sequence[int]) -> str:
        """See `words.text_of`."""
        return text_of(ids)

    def token_text(self, token: int) -> str:
        """The piece itself."""
        return PIECES[token]

    def _take(self, seconds: float) -> None:
        if not self._paid:
            seconds += self._latency.iteration_ms / 1000
            self._paid = True
        self._free_at += seconds
        self._sleep(max(0.0, self._free_at - self._now()))

    def _logits(self, state: EmulatedState) -> torch.Tensor:
        piece, share = next(state.reply, (END, 1.0))
        logits = torch.full((len(PIECES),), _OTHERS)
        logits[IDS[piece]] = log(share)
        if share < 1 and (other := _OPPOSITES.get(piece)):
            logits[IDS[other]] = log(1 - share)
        return logits


_OPPOSITES = {"positive": "negative", "negative": "positive", "9": "0", "0": "9"}
