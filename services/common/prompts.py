"""The prompts of a model, written by its own chat template: reasoning, answer and judge, or any conversation.

The judge's prompt extends the reasoning prompt, so that an engine with a prefix cache pays for the candidate
and the instruction only. Training builds its sequences here too.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

# Of transformers only what renders a template: its tokenizers bring torch along, 300 MB and seconds.
from transformers.utils.chat_template_utils import render_jinja_template

from services.common.errors import InvalidRequestError
from services.common.pair import ReasoningSettings

_SENTINEL = "\x00assistant\x00"
# Of longer questions nothing is kept: 256 of the longest would take 30 MB.
_KEPT_CHARS = 4096


class Prompts:
    """Renders prompts for one model.

    Args:
        template_folder: a Hugging Face folder with a tokenizer and a chat template.
        reasoning: delimiter and mark that ends reasoning.

    Raises:
        ValueError: the folder holds no chat template.
    """

    def __init__(self, template_folder: Path, reasoning: ReasoningSettings) -> None:
        self._template, self._marks = _load(template_folder)
        self._settings = reasoning
        # Questions repeat in every call of a session; the suffix depends on the instruction alone.
        self._kept = lru_cache(maxsize=256)(self._render_opening)
        self._judging = lru_cache(maxsize=16)(self._render_judging)

    def _opening(self, question: str, image_count: int) -> str:
        return (self._kept if len(question) <= _KEPT_CHARS else self._render_opening)(question, image_count)

    def reasoning(self, question: str, image_count: int, steps: Sequence[str]) -> str:
        """The prompt behind which the next step is written."""
        delimiter = self._settings.delimiter
        return self._opening(question, image_count) + "".join(step + delimiter for step in steps if step)

    def answer(self, question: str, image_count: int, steps: Sequence[str]) -> str:
        """The prompt behind which the answer is written: reasoning that is closed."""
        settings = self._settings
        # A model may close its reasoning without another step: an empty one.
        thought = settings.delimiter.join(filter(None, steps))
        closed = f"{thought}\n{settings.think_close}{settings.delimiter}"
        return self._opening(question, image_count) + closed

    def judge(
        self,
        question: str,
        image_count: int,
        steps: Sequence[str],
        candidate: str,
        closes: bool,
        instruction: str,
    ) -> str:
        """The prompt behind which the target says whether `candidate` is right."""
        settings = self._settings
        close = ("\n" if candidate else "") + settings.think_close if closes else ""
        return (
            self.reasoning(question, image_count, steps)
            + f"{candidate}{close}{settings.delimiter}"
            + self._judging(instruction)
        )

    def conversation(
        self, messages: list[dict[str, Any]], *, opens_turn: bool, continues: bool, thinking: bool | None
    ) -> str:
        """The prompt behind which the model goes on with a conversation of any kind.

        Args:
            messages: as chat templates take them, images as `{"type": "image"}`.
            opens_turn: a turn of the model's is opened behind the last message.
            continues: it goes on within the last message.
            thinking: the template's `enable_thinking`; None leaves it to the template.

        Raises:
            InvalidRequestError: the template does not take these messages.
        """
        options = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._render(
                messages, add_generation_prompt=opens_turn, continue_final_message=continues, **options
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequestError.of("messages", f"the chat template says: {error}") from error

    def _render_opening(self, question: str, image_count: int) -> str:
        content = [*({"type": "image"} for _ in range(image_count)), {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content if image_count else question}]
        return self._render(messages)

    def _render_judging(self, instruction: str) -> str:
        """What the template writes behind an assistant's turn when the instruction follows."""
        messages = [
            {"role": "user", "content": "question"},
            {"role": "assistant", "content": _SENTINEL},
            {"role": "user", "content": instruction},
        ]
        suffix = self._render(messages, enable_thinking=False).split(_SENTINEL, 1)[1]
        # A template that opens a thought all the same: close it, so that the next word is the verdict.
        think_open = self._settings.think_close.replace("/", "", 1)
        tail = suffix.rstrip()
        if tail.endswith(think_open):
            suffix = f"{tail}\n\n{self._settings.think_close}\n\n"
        return suffix

    def _render(
        self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True, **options: Any
    ) -> str:
        rendered, _ = render_jinja_template(
            [messages],
            chat_template=self._template,
            add_generation_prompt=add_generation_prompt,
            **self._marks,
            **options,
        )
        return str(rendered[0])


def _load(folder: Path) -> tuple[str, dict[str, str]]:
    """The chat template of a Hugging Face folder, and the special tokens that a template may name."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        file = folder / "chat_template.jinja"
        template = file.read_text("utf-8") if file.exists() else config.get("chat_template")
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no chat template: {error}") from error
    if isinstance(template, list):
        # The older form: several templates by name.
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not template:
        raise ValueError(f"{folder} holds no chat template")
    marks = {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in config.items()
        if name.endswith("_token") and isinstance(token, str | dict)
    }
    return template, marks
