"""A request as the engine sees it, free of Triton's types: validated input, and the outputs that go back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .errors import InvalidRequestError
from .prompt import EncodedImage, parse_images
from .sampling import SamplingParams, TokenLogprobs

MAX_TEXT_CHARS_PER_TOKEN = 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may ask for. Tokens, images, bytes."""

    max_model_len: int
    max_logprobs: int
    max_images: int
    max_image_bytes: int


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request's tensors as plain values, by the names of the vLLM backend's inputs.

    None is what was not given.
    """

    text_input: bytes
    image: Sequence[bytes] = ()
    stream: bool = False
    sampling_parameters: bytes | str = ""
    exclude_input_in_output: bool | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A validated request."""

    text: str
    images: tuple[EncodedImage, ...]
    stream: bool
    prepend_input: bool
    params: SamplingParams

    @classmethod
    def parse(cls, raw: RawRequest, limits: Limits) -> "Request":
        """Validate; raises InvalidRequestError naming the tensor or key and its limit."""
        try:
            text = raw.text_input.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"text_input is not valid UTF-8: {error}") from error
        if not text.strip():
            raise InvalidRequestError("text_input is empty")
        if len(text) > (most := limits.max_model_len * MAX_TEXT_CHARS_PER_TOKEN):
            # Long before it is tokenised: such a text cannot fit.
            raise InvalidRequestError(
                f"text_input: {len(text)} characters, more than the {most} that can fit "
                f"max_model_len {limits.max_model_len}"
            )
        if raw.stream and raw.exclude_input_in_output is False:
            raise InvalidRequestError("exclude_input_in_output must not be false with stream")
        # As in vLLM's backend: without the tensor, a stream leaves the input out and a single response
        # holds it.
        exclude = raw.stream if raw.exclude_input_in_output is None else raw.exclude_input_in_output
        parameters = raw.sampling_parameters
        return cls(
            text=text,
            images=parse_images(raw.image, limits.max_images, limits.max_image_bytes),
            stream=raw.stream,
            prepend_input=not exclude,
            params=SamplingParams.parse(
                parameters if isinstance(parameters, str) else parameters.decode(errors="replace"),
                limits.max_model_len,
                limits.max_logprobs,
            ),
        )


@dataclass(slots=True)
class Output:
    """What goes back in one response: what is new since the response before, and totals where so named."""

    text: str
    new_tokens: int
    input_tokens: int
    finish_reason: str | None = None
    cumulative_logprob: float = 0.0
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def extend(self, later: "Output") -> None:
        """Take in the response that follows this one."""
        self.text += later.text
        self.new_tokens += later.new_tokens
        self.finish_reason = later.finish_reason
        self.cumulative_logprob = later.cumulative_logprob
        self.logprobs = [*self.logprobs, *later.logprobs]


class Sink(Protocol):
    """Where a request's outputs go; called by the engine's thread only, and must not keep it waiting."""

    wants_cumulative_logprob: bool

    def cancelled(self) -> bool:
        """Whether the caller has cancelled or left, as far as is known."""

    def send(self, output: Output) -> None:
        """Send a response; the one with a finish reason is the last."""

    def fail(self, error: Exception) -> None:
        """End the request with an error."""
