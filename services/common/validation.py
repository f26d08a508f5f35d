"""Checks of fields that several services share. Each error names the field and its limit."""

import math
from typing import Protocol

from dreamr.v1 import common_pb2
from services.common.errors import InvalidRequestError
from services.common.logs import MAX_SESSION_ID
from services.common.pair import ReasoningSettings
from services.common.triton import SEEDS, Sampling

MAX_TEMPERATURE = 2.0
MAX_CONTEXT_STEPS = 1024


def check_range(field: str, value: float, low: float, high: float) -> None:
    """Raises InvalidRequestError unless `low <= value <= high`; NaN never is."""
    if not low <= value <= high:
        raise InvalidRequestError.of(field, f"must be within {low:g}..{high:g}, not {value:g}")


def check_sampling(message: common_pb2.Sampling) -> Sampling:
    """The sampling of a request, checked."""
    temperature = message.temperature
    check_range("sampling.temperature", temperature, 0, MAX_TEMPERATURE)
    top_p = message.top_p if message.HasField("top_p") else 1.0
    if not 0 < top_p <= 1:
        raise InvalidRequestError.of("sampling.top_p", f"must be above 0 and at most 1, not {top_p:g}")
    seed = message.seed if message.HasField("seed") else None
    if seed is not None and seed >= SEEDS:
        raise InvalidRequestError.of("sampling.seed", "must be below 2^63")
    return Sampling(temperature, top_p, seed)


def check_context(context: common_pb2.Context, limits: ReasoningSettings) -> None:
    """A context has a question and images that fit the pair, and an id and steps within their limits."""
    if len(context.session_id) > MAX_SESSION_ID:
        raise InvalidRequestError.of("context.session_id", f"has more than {MAX_SESSION_ID} characters")
    if not context.question.strip():
        raise InvalidRequestError.of("context.question", "must not be empty")
    if len(context.question) > limits.max_question_chars:
        raise InvalidRequestError.of(
            "context.question",
            f"has {len(context.question)} characters, more than {limits.max_question_chars}",
        )
    count, low, high = len(context.images), limits.min_images, limits.max_images
    if not low <= count <= high:
        wanted = f"{low}" if low == high else f"{low} to {high}"
        raise InvalidRequestError.of("context.images", f"must be {wanted}, not {count}")
    for index, image in enumerate(context.images):
        if not image.data:
            raise InvalidRequestError.of(f"context.images[{index}]", "must not be empty")
    if len(context.steps) > MAX_CONTEXT_STEPS:
        raise InvalidRequestError.of(
            "context.steps", f"must be at most {MAX_CONTEXT_STEPS}, not {len(context.steps)}"
        )


class Timed(Protocol):
    """A call that may have a deadline."""

    def time_remaining(self) -> float | None:
        """Seconds; None or infinity without one."""


def seconds_left(context: Timed, most: float) -> float:
    """The deadline of a call in seconds from now, to pass on; `most` where the caller set none."""
    left = context.time_remaining()
    if left is None or math.isinf(left):
        return most
    return max(0.001, min(left, most))
