"""What the engine needs of a model: the runner of Hugging Face models is one, an emulation may be another."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .kv_cache import Key
from .prompt import EncodedImage, Prompt


class Store(Protocol):
    """What is kept of prefixes, for the metrics."""

    @property
    def bytes(self) -> int: ...

    @property
    def counts(self) -> Any: ...

    def __len__(self) -> int: ...


class Computes(Protocol):
    """Computes the next token's logits for sequences; used by the engine's thread alone.

    A state belongs to the model that opened it; the engine reads its `prompt` and `length` only.
    """

    max_model_len: int
    eos_ids: frozenset[int]

    @property
    def store(self) -> Store:
        """Prefixes that are kept."""

    def begin_iteration(self) -> None:
        """Another iteration of the engine begins."""

    def open(self, prompt: Prompt, max_tokens: int) -> Any:
        """Begin a sequence; returns its state."""

    def prefill(self, state: Any, budget: int) -> tuple[int, torch.Tensor | None]:
        """Compute up to `budget` more tokens of the prompt; logits (vocabulary,) at its end."""

    def decode(self, states: list[Any], tokens: list[int]) -> Sequence[torch.Tensor | Exception]:
        """Append a token to each sequence; logits (vocabulary,) of what follows each."""

    def share(self, state: Any, key: Key) -> None:
        """Let others reuse what is computed of this sequence."""

    def close(self, state: Any) -> None:
        """The sequence writes no more."""

    def text_of(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def token_text(self, token: int) -> str:
        """Text of one token."""


class Encodes(Protocol):
    """Turns a request's text and images into a prompt."""

    def is_quick(self, text: str, images: tuple[EncodedImage, ...]) -> bool:
        """Whether `encode` takes no longer than an iteration may wait."""

    def encode(self, text: str, images: tuple[EncodedImage, ...]) -> Prompt:
        """The prompt; raises InvalidRequestError."""
