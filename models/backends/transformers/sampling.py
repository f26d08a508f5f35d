"""How the next token is chosen: the validated parameters of a request, and the sampler that applies them."""

import json
import math
from dataclasses import dataclass, fields
from typing import Any

import torch

from .errors import InvalidRequestError

MAX_STOPS = 16
MAX_STOP_CHARS = 256
_WITHOUT_EFFECT: dict[str, object] = {
    "n": 1,
    "best_of": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "stop_token_ids": [],
    "skip_special_tokens": True,
    "detokenize": True,
}
"""Parameters of vLLM that this backend does not have, with the values that change nothing."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The keys of `sampling_parameters`, with the names and defaults of vLLM's SamplingParams."""

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None

    @property
    def is_scoring(self) -> bool:
        """One token with its log-probabilities: a score, which the engine serves first."""
        return self.max_tokens == 1 and self.logprobs is not None

    @classmethod
    def parse(cls, text: str, max_model_len: int, max_logprobs: int) -> "SamplingParams":
        """Validate a JSON object; raises InvalidRequestError naming the key and its limits."""
        try:
            values = json.loads(text or "{}")
        except ValueError as error:
            raise InvalidRequestError(f"sampling_parameters is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise InvalidRequestError("sampling_parameters must be a JSON object")
        # A client may spell out what it leaves as it is.
        values = {
            key: value
            for key, value in values.items()
            if value is not None and not (key in _WITHOUT_EFFECT and value == _WITHOUT_EFFECT[key])
        }
        unknown = sorted(set(values) - {entry.name for entry in fields(cls)})
        if unknown:
            known = ", ".join(entry.name for entry in fields(cls))
            raise InvalidRequestError(f"sampling_parameters: unknown key `{unknown[0]}`; known are {known}")
        # As in vLLM, an answer ends where the model's context does, however much was asked for.
        max_tokens = min(_whole(values, "max_tokens", 16, 1, 1 << 31), max_model_len)
        return cls(
            max_tokens=max_tokens,
            min_tokens=_whole(values, "min_tokens", 0, 0, max_tokens),
            temperature=_number(values, "temperature", 1.0, 0.0, 100.0),
            top_p=_number(values, "top_p", 1.0, 1e-6, 1.0),
            top_k=max(0, _whole(values, "top_k", 0, -1, 1 << 31)),
            seed=None if values.get("seed") is None else _whole(values, "seed", 0, -(1 << 63), (1 << 63) - 1),
            stop=_stops(values.get("stop")),
            include_stop_str_in_output=_flag(values, "include_stop_str_in_output"),
            ignore_eos=_flag(values, "ignore_eos"),
            logprobs=None
            if values.get("logprobs") is None
            else _whole(values, "logprobs", 0, 0, max_logprobs),
        )


def _number(values: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = values.get(name, default)
    try:
        # vLLM's backend accepts numbers as strings, since Triton's request parameters may carry them so.
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        raise InvalidRequestError(
            f"sampling_parameters: {name} must be a number from {low:g} to {high:g}, not {value!r}"
        )
    return number


def _whole(values: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = values.get(name, default)
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
        raise InvalidRequestError(
            f"sampling_parameters: {name} must be a whole number from {low} to {high}, not {value!r}"
        )
    return number


def _flag(values: dict[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if value in ("true", "false"):
        return bool(value == "true")
    if not isinstance(value, bool):
        raise InvalidRequestError(f"sampling_parameters: {name} must be true or false, not {value!r}")
    return value


def _stops(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise InvalidRequestError("sampling_parameters: stop must be a non-empty string or a list of them")
    if len(stops) > MAX_STOPS or any(len(stop) > MAX_STOP_CHARS for stop in stops):
        raise InvalidRequestError(
            f"sampling_parameters: stop takes at most {MAX_STOPS} strings "
            f"of at most {MAX_STOP_CHARS} characters"
        )
    return tuple(stops)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Raw log-probabilities at one output position.

    (token id, logprob, rank from 1), the sampled token first.
    """

    entries: tuple[tuple[int, float, int], ...]


class Sampler:
    """Draws tokens for one request; with a seed, the same draws every time."""

    __slots__ = ("_generator", "_params")

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._generator: torch.Generator | None = None
        if params.temperature > 0 and params.seed is not None:
            self._generator = torch.Generator().manual_seed(params.seed)

    def sample(self, logits: torch.Tensor, forbidden: frozenset[int] = frozenset()) -> int:
        """Choose a token from `logits` (vocabulary,), never one of `forbidden`; `logits` stays as it is."""
        if forbidden:
            logits = logits.clone()
            logits[list(forbidden)] = float("-inf")
        if self._params.temperature == 0:
            token = int(logits.argmax())
            # NaN counts as the largest.
            if math.isnan(float(logits[token])):
                raise ArithmeticError("the model computed NaN")
            return token
        probabilities = self._filtered(logits.float().cpu() / max(self._params.temperature, 1e-5)).softmax(-1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    def _filtered(self, logits: torch.Tensor) -> torch.Tensor:
        top_k, top_p = self._params.top_k, self._params.top_p
        if 0 < top_k < logits.numel():
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
        if top_p < 1:
            ordered, order = logits.sort(descending=True)
            probabilities = ordered.softmax(-1)
            # A token goes when those before it already hold top_p: the first always stays.
            ordered[probabilities.cumsum(-1) - probabilities >= top_p] = float("-inf")
            logits = torch.empty_like(logits).scatter_(0, order, ordered)
        return logits


def token_logprobs(logits: torch.Tensor, token: int, count: int) -> TokenLogprobs:
    """Log-probabilities of the raw distribution: those of `token` and of the `count` likeliest."""
    logprobs = logits.float().log_softmax(-1)
    mine = float(logprobs[token])
    if math.isnan(mine):
        raise ArithmeticError("the model computed NaN for its log-probabilities")
    if count == 0:
        return TokenLogprobs(((token, mine, int((logprobs >= mine).sum())),))
    top = logprobs.topk(min(count, logprobs.numel()))
    ranked = [
        (index, value, rank + 1)
        for rank, (index, value) in enumerate(zip(top.indices.tolist(), top.values.tolist(), strict=True))
    ]
    own = next((entry for entry in ranked if entry[0] == token), None)
    if own is None:
        own = (token, mine, int((logprobs >= mine).sum()))
    return TokenLogprobs((own, *(entry for entry in ranked if entry[0] != token)))
