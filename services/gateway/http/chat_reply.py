"""What a chat completion answers, in the objects of OpenAI's API."""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from dreamr.v1 import completion_pb2, gateway_pb2

_LEAST_LOGPROB = -9999.0
"""What OpenAI says of a token that could not come: JSON has no infinity."""


class ChatReply:
    """The objects of one completion.

    Args:
        reply_id: the same in all of them.
    """

    def __init__(self, reply_id: str, model: str) -> None:
        self._common = {"id": reply_id, "created": int(time.time()), "model": model}

    def chunk(
        self,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **further: Any,
    ) -> dict[str, Any]:
        """A piece of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice], **further}

    def last_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The piece behind all others, with what it has cost."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage}

    def whole(
        self,
        message: dict[str, Any],
        finish_reason: str,
        usage: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        **further: Any,
    ) -> dict[str, Any]:
        """All in one."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "refusal": None, **message},
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage, **further}


def usage(prompt: int, completion: int, reasoning: int | None = None) -> dict[str, Any]:
    """Tokens; those of the reasoning count as part of the completion."""
    found: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if reasoning is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return found


def session_usage(commits: Iterable[gateway_pb2.Commit], finished: gateway_pb2.Finished) -> dict[str, Any]:
    """Of a session: what stands in its steps and its answer, not what was thrown away."""
    totals = finished.totals
    completion = totals.draft.committed_tokens + totals.target.committed_tokens
    return usage(totals.prompt_tokens, completion, sum(commit.step.tokens for commit in commits))


def ended(answer: str, stops: Iterable[str]) -> str:
    """An answer up to the first of the texts that end it."""
    places = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(places)] if places else answer


def logprobs(places: Sequence[completion_pb2.TokenPlace]) -> dict[str, Any]:
    """Log-probabilities of generated tokens."""
    content = [
        {**_token(place.token), "top_logprobs": [_token(token) for token in place.top]} for place in places
    ]
    return {"content": content, "refusal": None}


def _token(token: completion_pb2.TokenLogprob) -> dict[str, Any]:
    logprob = token.logprob if math.isfinite(token.logprob) else _LEAST_LOGPROB
    return {"token": token.text, "logprob": logprob, "bytes": list(token.text.encode())}
