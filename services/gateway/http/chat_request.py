"""A chat completion's request, as OpenAI's API has it: checked, and translated for the cluster or a model."""

import base64
import binascii
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dreamr.v1 import common_pb2, completion_pb2, gateway_pb2
from services.common.pair import ReasoningSettings
from services.gateway.http.http_error import HttpError, refused
from services.gateway.http.proto_json import message_of

# Of an answer that counts reasoning and answer together, the answer has this share at most.
_ANSWER_SHARE = 4

_ROLES = {
    "system": completion_pb2.CHAT_ROLE_SYSTEM,
    "developer": completion_pb2.CHAT_ROLE_SYSTEM,
    "user": completion_pb2.CHAT_ROLE_USER,
    "assistant": completion_pb2.CHAT_ROLE_ASSISTANT,
}


class _Model(BaseModel):
    """An object of a request.

    Attributes:
        ignored: fields that OpenAI clients send as a matter of course, and that change no answer here.
        neutral: fields of OpenAI's that are not supported, with the values that ask for nothing.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    ignored: ClassVar[frozenset[str]] = frozenset()
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """Without what changes nothing. One error for all that is unknown: pydantic keeps one for each."""
        if not isinstance(value, dict):
            return value
        asked = _dropped(value, cls.ignored)
        for name in sorted(asked.keys() & cls.neutral.keys()):
            if asked.pop(name) not in cls.neutral[name]:
                raise PydanticCustomError("unsupported_parameter", "is not supported", {"name": name})
        if unknown := asked.keys() - cls.model_fields.keys():
            raise PydanticCustomError("unknown_parameter", "is not known", {"name": min(unknown)})
        return asked


def _dropped(value: dict[str, Any], ignored: frozenset[str]) -> dict[str, Any]:
    """An object without the fields that are ignored, and those that are null, as if they were not set."""
    return {name: one for name, one in value.items() if one is not None and name not in ignored}


class TextPart(_Model):
    """A part of a message."""

    ignored = frozenset({"cache_control"})

    type: Literal["text"]
    text: str


class ImageUrl(_Model):
    """Where an image is: in the request itself."""

    ignored = frozenset({"detail"})  # images go to the models as they are

    url: str


class ImagePart(_Model):
    """A part of a message."""

    ignored = frozenset({"cache_control"})

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Model):
    """One of the conversation's messages. Earlier reasoning that is sent back is dropped, as elsewhere."""

    ignored = frozenset(
        {"annotations", "name", "reasoning", "reasoning_content", "reasoning_details", "tool_call_id"}
    )
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "audio": (),
        "function_call": (),
        "refusal": (),
        "tool_calls": ([],),
    }

    role: Literal["system", "developer", "user", "assistant"]
    # Once a part is wrong, the others are not looked at: pydantic keeps an error for each.
    content: str | Annotated[list[Part], Field(max_length=1024, fail_fast=True)]

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content as parts."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content

    @property
    def text(self) -> str:
        """The content without its images."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class StreamOptions(_Model):
    """How a stream ends."""

    ignored = frozenset({"include_obfuscation"})  # there is none

    include_usage: bool = False


class TemplateOptions(_Model):
    """For a model's chat template."""

    enable_thinking: bool | None = None


Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class ChatRequest(_Model):
    """The parameters that are supported.

    Attributes:
        dreamr: the fields of `dreamr.v1.ReasonOptions`.
        timeout: seconds until the deadline.
    """

    ignored = frozenset(
        {
            "metadata",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
        }
    )
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "audio": (),
        "frequency_penalty": (0,),
        "function_call": ("auto", "none"),
        "functions": ([],),
        "logit_bias": ({},),
        "modalities": (["text"],),
        "n": (1,),
        "prediction": (),
        "presence_penalty": (0,),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "tool_choice": ("auto", "none"),
        "tools": ([],),
        "verbosity": (),
        "web_search_options": (),
    }

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1024, fail_fast=True)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(default=None, ge=1, lt=1 << 31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=1 << 31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] = Field(default_factory=list)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    continue_final_message: bool = False
    add_generation_prompt: bool = True
    chat_template_kwargs: TemplateOptions = TemplateOptions()
    dreamr: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0)

    @classmethod
    def parse(cls, body: Any) -> Self:
        """Checks a request.

        Raises:
            HttpError: names the parameter and what is wrong with it.
        """
        if not isinstance(body, dict):
            raise refused("body", "must be a JSON object")
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise _first(error) from error

    @property
    def stops(self) -> list[str]:
        """What the answer is to end before."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def most_tokens(self) -> int | None:
        """Tokens at most, reasoning included."""
        limits = [most for most in (self.max_tokens, self.max_completion_tokens) if most is not None]
        return min(limits) if limits else None

    def to_reason(self, limits: ReasoningSettings, request_id: str) -> gateway_pb2.ReasonRequest:
        """As a question to the cluster.

        Raises:
            HttpError: it asks for what a question cannot carry.
        """
        for name in ("logprobs", "continue_final_message", "top_logprobs"):
            if getattr(self, name):
                raise refused(name, "the cluster has none; ask a model by itself", "unsupported_parameter")
        if not self.add_generation_prompt or self.chat_template_kwargs.enable_thinking is not None:
            name = "chat_template_kwargs" if self.add_generation_prompt else "add_generation_prompt"
            raise refused(name, "the cluster always reasons; ask a model by itself", "unsupported_parameter")
        for index, message in enumerate(self.messages):
            if message.role == "assistant":
                raise refused(
                    f"messages[{index}].role", "a question to the cluster carries no answers from before"
                )
        # The prompts of a session begin with one message of the user's: instructions go in front of it.
        first = sorted(self.messages, key=lambda message: message.role == "user")
        return gateway_pb2.ReasonRequest(
            question="\n\n".join(filter(None, (message.text for message in first))),
            images=[common_pb2.Image(data=data) for data in self._images()],
            options=self._options(limits),
            request_id=request_id,
        )

    def to_complete(self, call_id: str) -> completion_pb2.CompleteRequest:
        """As a conversation for one model.

        Raises:
            HttpError: names the parameter and what is wrong with it.
        """
        if self.dreamr:
            raise refused("dreamr", "a model by itself has no such options", "unsupported_parameter")
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", "needs logprobs")
        images = self._images()
        messages = [
            completion_pb2.ChatMessage(
                role=_ROLES[message.role],
                parts=[
                    completion_pb2.ChatMessage.Part(text=part.text)
                    if isinstance(part, TextPart)
                    else completion_pb2.ChatMessage.Part(image=common_pb2.Image(data=next(images)))
                    for part in message.parts
                ],
            )
            for message in self.messages
        ]
        return completion_pb2.CompleteRequest(
            id=call_id,
            messages=messages,
            continue_final_message=self.continue_final_message,
            no_generation_prompt=not self.add_generation_prompt,
            thinking=self.chat_template_kwargs.enable_thinking,
            max_tokens=self.most_tokens,
            sampling=self._sampling(common_pb2.Sampling()),
            stop=self.stops,
            top_logprobs=self.top_logprobs if self.logprobs else None,
        )

    def _options(self, limits: ReasoningSettings) -> gateway_pb2.ReasonOptions:
        values = dict(self.dreamr)
        author = values.get("answer_by")
        if author in ("draft", "target"):
            values["answer_by"] = f"AUTHOR_{author.upper()}"
        options = message_of(values, gateway_pb2.ReasonOptions(), "dreamr")
        self._sampling(options.sampling)
        if most := self.most_tokens:
            answer = min(limits.max_answer_tokens, max(1, most // _ANSWER_SHARE))
            if not options.HasField("max_answer_tokens"):
                options.max_answer_tokens = answer
            if not options.HasField("max_reasoning_tokens"):
                options.max_reasoning_tokens = min(limits.max_reasoning_tokens, max(1, most - answer))
        return options

    def _sampling(self, sampling: common_pb2.Sampling) -> common_pb2.Sampling:
        """What the request says of it, over what is there."""
        for name in ("temperature", "top_p", "seed"):
            if (value := getattr(self, name)) is not None:
                setattr(sampling, name, value)
        return sampling

    def _images(self) -> Iterator[bytes]:
        for place, message in enumerate(self.messages):
            for index, part in enumerate(message.parts):
                if isinstance(part, ImagePart):
                    yield _image(part.image_url.url, f"messages[{place}].content[{index}].image_url.url")


def _image(url: str, field: str) -> bytes:
    head, comma, data = url.partition(",")
    if not head.lower().startswith("data:"):
        raise refused(field, "must be a data: URI with the image in it; nothing is fetched from elsewhere")
    if not comma or not head.lower().endswith(";base64"):
        raise refused(field, "must be data:image/...;base64,...")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(field, f"is not base64: {error}") from error


def _first(error: ValidationError) -> HttpError:
    """The first thing that is wrong, by the parameter's name."""
    found = error.errors(include_url=False, include_input=False)
    # Of a choice between forms, what is wrong with the one that was meant goes deepest.
    same = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    first = max(same, key=lambda one: len(one["loc"]))
    unknown = first["type"] in ("unknown_parameter", "unsupported_parameter")
    name, tagged = "", False
    for step in (*first["loc"], first["ctx"]["name"]) if unknown else first["loc"]:
        if isinstance(step, int):
            name += f"[{step}]"
        elif step.startswith("list["):
            # How pydantic calls a list of parts, whose tags stand behind their numbers.
            tagged = True
        elif tagged and name.endswith("]"):
            tagged = False
        elif step not in ("str", "constrained-str"):
            name += f".{step[:64]}" if name else step[:64]
    if unknown:
        return refused(name, first["msg"], first["type"])
    return refused(name, first["msg"][0].lower() + first["msg"][1:])
