"""One request on its way through the engine: its tokens, its text, and what has been sent of it."""

from typing import Any

import torch

from .computes import Computes
from .prompt import Prompt
from .request import Output, Request, Sink
from .sampling import Sampler, TokenLogprobs, token_logprobs
from .stops import Detokenizer, StopText


class Sequence:
    """A request with its state in the model. `finish_reason` is set when the last token is taken."""

    __slots__ = (
        "_cumulative",
        "_detokenizer",
        "_logprobs",
        "_sampler",
        "_sent_chars",
        "_sent_tokens",
        "_text",
        "_want_logprobs",
        "failure",
        "finish_reason",
        "limit",
        "prefilled",
        "prompt",
        "request",
        "sink",
        "state",
        "tokens",
    )

    def __init__(self, request: Request, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.prompt: Prompt | None = None
        # Why there is no prompt, where somebody else than the engine tried to make it.
        self.failure: Exception | None = None
        self.state: Any = None
        self.prefilled = False
        self.limit = 0
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        params = request.params
        self._sampler = Sampler(params)
        self._text = StopText(params.stop, params.include_stop_str_in_output)
        self._detokenizer: Detokenizer | None = None
        self._want_logprobs = params.logprobs is not None or sink.wants_cumulative_logprob
        self._logprobs: list[TokenLogprobs] = []
        self._cumulative = 0.0
        self._sent_chars = self._sent_tokens = 0

    def open(self, runner: Computes, prompt: Prompt) -> Any:
        """Take a place in the model, with `prompt` as input."""
        self.prompt = prompt
        self.limit = min(self.request.params.max_tokens, runner.max_model_len - len(prompt.ids))
        self.state = runner.open(prompt, self.limit)
        return self.state

    def take(self, runner: Computes, logits: torch.Tensor) -> None:
        """Choose the next token from `logits` (vocabulary,) and see whether it ends the sequence."""
        params = self.request.params
        early = len(self.tokens) < params.min_tokens
        token = self._sampler.sample(logits, runner.eos_ids if early else frozenset())
        self.tokens.append(token)
        if self._want_logprobs:
            entry = token_logprobs(logits, token, params.logprobs or 0)
            self._cumulative += entry.entries[0][1]
            if params.logprobs is not None:
                self._logprobs.append(entry)
        if token in runner.eos_ids and not params.ignore_eos:
            self.finish_reason = "stop"
            return
        if self._detokenizer is None:
            assert self.prompt is not None
            self._detokenizer = Detokenizer(runner.text_of, self.prompt.ids)
        if self._text.push(self._detokenizer.push(token), active=len(self.tokens) >= params.min_tokens):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.limit:
            self.finish_reason = "length"

    def due(self, interval: int) -> bool:
        """Whether a response is to be sent now: the first token, every `interval` tokens, and the end."""
        if self.finish_reason is not None:
            return True
        return self.request.stream and (
            self._sent_tokens == 0 or len(self.tokens) - self._sent_tokens >= interval
        )

    def output(self) -> Output:
        """What is new since the last call."""
        assert self.prompt is not None
        end = len(self._text.text) if self.finish_reason is not None else self._text.certain
        text = self._text.text[self._sent_chars : end]
        if self.request.prepend_input and self._sent_tokens == 0:
            text = self.request.text + text
        output = Output(
            text=text,
            new_tokens=len(self.tokens) - self._sent_tokens,
            input_tokens=len(self.prompt.ids),
            finish_reason=self.finish_reason,
            cumulative_logprob=self._cumulative,
            logprobs=self._logprobs,
        )
        self._sent_chars, self._sent_tokens, self._logprobs = end, len(self.tokens), []
        return output
