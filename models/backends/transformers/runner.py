"""The model itself: loads a Hugging Face folder and computes the next token's logits for a sequence."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from .config import ModelSettings
from .errors import ConfigError
from .fused import FusedLlama, agree, fuse
from .kv_cache import Arena, Key, Layout, PrefixStore, StoreCounts, cache_over
from .prompt import Prompt

ROOM = 64  # tokens of answer for which a sequence's arena has room before it must grow


@dataclass(slots=True)
class SequenceState:
    """Where one sequence stands in the model.

    `length` tokens are computed, in `arena` where the layout allows. `asked_once`: for a single token.
    """

    prompt: Prompt
    length: int
    cache: Cache
    arena: Arena | None
    cache_end: int = 0
    positions: torch.Tensor | None = None
    offset: int = 0
    asked_once: bool = False


class Runner:
    """One loaded model. Not thread-safe: it belongs to the engine's thread."""

    def __init__(self, settings: ModelSettings, device: torch.device) -> None:
        folder = settings.model
        self.device = device
        config = AutoConfig.from_pretrained(folder)
        self.processor: Any | None = None
        if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            model_class: Any = AutoModelForImageTextToText
            self.processor = AutoProcessor.from_pretrained(folder)
            self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        else:
            model_class = AutoModelForCausalLM
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        dtype: Any = "auto" if settings.dtype == "auto" else getattr(torch, settings.dtype)
        self._model = model_class.from_pretrained(folder, dtype=dtype).eval().requires_grad_(False).to(device)
        text_config = config.get_text_config()
        self._text_config = text_config
        self.image_token_id: int | None = getattr(config, "image_token_id", None)
        self._rust: Any | None = getattr(self.tokenizer, "backend_tokenizer", None)
        self._token_texts: dict[int, str] = {}
        self.vocabulary: int = text_config.vocab_size
        self.eos_ids = _eos_ids(self._model, self.tokenizer)
        positions = getattr(text_config, "max_position_embeddings", None)
        self.max_model_len = settings.max_model_len or positions or 2048
        if positions is not None and self.max_model_len > positions:
            raise ConfigError(
                f"model.json: max_model_len {self.max_model_len} is more than the model's {positions}"
            )
        self._parameters = inspect.signature(self._model.forward).parameters
        # Models with positions in three dimensions (time, height, width) derive them from the whole prompt.
        self._rope_index = getattr(getattr(self._model, "model", None), "get_rope_index", None)
        self.store = PrefixStore(settings.kv_cache_memory_bytes if settings.enable_prefix_caching else 0)
        self.layout = self._find_layout()
        self.fused: FusedLlama | None = None
        self._warm_up()

    @torch.inference_mode()
    def _find_layout(self) -> Layout | None:
        """The cache's shape, from one token's real cache.

        None where it cannot be cut (sliding windows, states).
        """
        cache = DynamicCache(config=self._text_config)
        self._call(torch.zeros((1, 1), dtype=torch.long, device=self.device), cache)
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            return None
        shapes = {tuple(layer.keys.shape) for layer in cache.layers} | {
            tuple(layer.values.shape) for layer in cache.layers
        }
        if len(shapes) != 1:
            return None
        keys = cache.layers[0].keys
        return Layout(len(cache.layers), keys.shape[1], keys.shape[3], keys.dtype, keys.device)

    def _warm_up(self) -> None:
        """Run a short prompt and a decode step, so that the first request does not pay for first calls.

        Then again the short way, if there is one for this model; it is used from now on if the results agree.
        """
        plain = self._try_out()
        if self.layout is not None:
            with torch.inference_mode():
                self.fused = fuse(self._model, self.max_model_len)
            if self.fused is not None and not all(map(agree, self._try_out(), plain)):
                self.fused = None

    def _try_out(self) -> list[torch.Tensor]:
        ids = tuple(range(min(8, self.vocabulary)))
        prompt = Prompt(ids, np.array(ids, dtype=np.int64), 0, 0, {})
        state = self.open(prompt, 2)
        self.store.counts = StoreCounts()
        logits = [self.prefill(state, 4)[1], self.prefill(state, 256)[1]]
        (decoded,) = self.decode([state], [0])
        if isinstance(decoded, Exception):
            raise decoded
        logits.append(decoded)
        return [found for found in logits if found is not None]

    def begin_iteration(self) -> None:
        """Nothing is done by iterations here."""

    def open(self, prompt: Prompt, max_tokens: int) -> SequenceState:
        """Begin a sequence, from the longest prefix that is stored."""
        if self.layout is None:
            return SequenceState(prompt, 0, DynamicCache(config=self._text_config), None)
        length, entry = self.store.find(prompt.key, len(prompt.ids) - 1)
        length = prompt.usable_prefix(length)
        capacity = min(len(prompt.ids) + min(max_tokens, ROOM), self.max_model_len)
        arena = self.store.open(prompt.key, length, entry, self.layout, capacity)
        state = SequenceState(prompt, length, cache_over(arena), arena, length, asked_once=max_tokens == 1)
        if self._rope_index is not None and prompt.features:
            self._index_positions(state)
        return state

    def _index_positions(self, state: SequenceState) -> None:
        wanted = inspect.signature(self._rope_index).parameters  # type: ignore[arg-type]
        features = {
            name: value.to(self.device) for name, value in state.prompt.features.items() if name in wanted
        }
        ids = torch.tensor([state.prompt.ids], device=self.device)
        assert self._rope_index is not None
        state.positions, delta = self._rope_index(
            input_ids=ids, attention_mask=torch.ones_like(ids), **features
        )
        state.offset = int(delta.reshape(-1)[0])

    @torch.inference_mode()
    def prefill(self, state: SequenceState, budget: int) -> tuple[int, torch.Tensor | None]:
        """Compute up to `budget` more tokens of the prompt.

        Returns how many, and at the prompt's end the logits (vocabulary,) of what follows it.
        All images go in one piece, so a piece with images may be longer than the budget.
        """
        prompt, start = state.prompt, state.length
        end = min(start + budget, len(prompt.ids))
        features: dict[str, torch.Tensor] = {}
        if start < prompt.images_end and end > prompt.images_start:
            if start < prompt.images_start and prompt.images_end - start > budget:
                end = prompt.images_start
            else:
                end = max(end, prompt.images_end)
                features = prompt.features
        ids = torch.tensor([prompt.ids[start:end]], device=self.device)
        logits = self._forward(state, ids, end - start, features)
        return end - start, logits if end == len(prompt.ids) else None

    @torch.inference_mode()
    def decode(self, states: list[SequenceState], tokens: list[int]) -> list[torch.Tensor | Exception]:
        """Append a token to each sequence and return the logits (vocabulary,) of what follows each.

        Where sequences are computed one by one, a failure takes its sequence's place.
        """
        if self.fused is None:
            return [self._decode_one(state, token) for state, token in zip(states, tokens, strict=True)]
        arenas = [self._reserve(state, 1) for state in states]
        logits = self.fused.decode(tokens, arenas)
        for state in states:
            state.length += 1
        return list(logits)

    def _decode_one(self, state: SequenceState, token: int) -> torch.Tensor | Exception:
        try:
            return self._forward(state, torch.tensor([[token]], device=self.device), 1, {})
        except Exception as error:  # noqa: BLE001 - whatever it is, the others' steps are not touched by it
            return error

    def _reserve(self, state: SequenceState, count: int) -> Arena:
        arena, end = state.arena, state.length + count
        assert arena is not None
        if end > arena.capacity:
            arena.reserve(min(max(end + ROOM, int(end * 1.5)), self.max_model_len))
            state.cache_end = -1
        return arena

    def _forward(
        self, state: SequenceState, ids: torch.Tensor, count: int, features: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        end = state.length + count
        if state.arena is not None:
            self._reserve(state, count)
            if self.fused is not None and not features:
                logits = self.fused.prefill(ids[0], state.arena)
                state.length = end
                return logits
            if state.cache_end != state.length:
                # The arena grew, or was written the short way: the library's view of it is made anew.
                state.cache = cache_over(state.arena)
        extra: dict[str, torch.Tensor] = {}
        for name, value in features.items():
            whole = value.shape[:2] == (1, len(state.prompt.ids))
            extra[name] = (value[:, state.length : end] if whole else value).to(self.device)
        if self._rope_index is not None:
            extra["position_ids"] = self._positions(state, end)
        logits = self._call(ids, state.cache, **extra)[0, -1]
        state.length = end
        if state.arena is not None:
            state.arena.used = state.cache_end = end
        return logits

    def _positions(self, state: SequenceState, end: int) -> torch.Tensor:
        if state.positions is not None and end <= state.positions.shape[-1]:
            return state.positions[..., state.length : end]
        plain = torch.arange(state.length, end, device=self.device) + state.offset
        return plain.expand(3, 1, -1)

    def _call(self, ids: torch.Tensor, cache: Cache, **extra: torch.Tensor) -> torch.Tensor:
        if "logits_to_keep" in self._parameters:
            out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, **extra)
        else:
            out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, **extra)
        logits: torch.Tensor = out.logits
        return logits

    def share(self, state: SequenceState, key: Key) -> None:
        """Let others reuse what is computed of this sequence; `key` is its ids so far, as in `Prompt.key`."""
        if state.arena is not None:
            self.store.put(key[: state.length], state.arena, asked_once=state.asked_once)

    def close(self, state: SequenceState) -> None:
        """The sequence writes no more."""
        if state.arena is not None:
            state.arena.writing = False

    def text_of(self, ids: Sequence[int]) -> str:
        """Text of some token ids, special tokens left out."""
        # The tokenizer in Rust, where there is one, without transformers' wrapping: this runs for every
        # token.
        decode = self._rust.decode if self._rust is not None else self.tokenizer.decode
        text: str = decode(ids, skip_special_tokens=True)
        return text

    def token_text(self, token: int) -> str:
        """Text of one token by itself, special ones too, as log-probabilities name it."""
        text = self._token_texts.get(token)
        if text is None:
            text = self._token_texts[token] = str(self.tokenizer.decode([token]))
        return text


def _eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    ids = getattr(generation, "eos_token_id", None)
    found = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return frozenset(found)


def pick_device(kind: str, device_id: int) -> torch.device:
    """The device of a Triton instance: KIND_GPU its own, KIND_MODEL and KIND_AUTO a GPU if there is one."""
    if kind == "CPU" or not torch.cuda.is_available():
        if kind == "GPU":
            raise ConfigError("config.pbtxt asks for KIND_GPU, but torch sees no GPU")
        return torch.device("cpu")
    return torch.device("cuda", max(device_id, 0))


def set_threads(count: int | None) -> None:
    """Threads of one operation on the CPU."""
    if count is not None:
        torch.set_num_threads(count)
