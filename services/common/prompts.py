"""The three prompts of a model, written by its own chat template: reasoning, answer and judge.

The judge's prompt extends the reasoning prompt, so that an engine with a prefix cache pays for the candidate
and the instruction only. Training builds its sequences here too.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from services.common.pair import ReasoningSettings

_SENTINEL = "\x00assistant\x00"


class Prompts:
    """Renders prompts for one model.

    Args:
        template_folder: a Hugging Face folder with a tokenizer and a chat template.
        reasoning: delimiter and mark that ends reasoning.

    Raises:
        ValueError: the folder has no chat template.
    """

    def __init__(self, template_folder: Path, reasoning: ReasoningSettings) -> None:
        tokenizer = AutoTokenizer.from_pretrained(str(template_folder), local_files_only=True)
        if not tokenizer.chat_template:
            raise ValueError(f"{template_folder} has no chat template")
        self._tokenizer = tokenizer
        self._settings = reasoning
        # Questions repeat in every call of a session; the suffix depends on the instruction alone.
        self._opening = lru_cache(maxsize=256)(self._render_opening)
        self._judging = lru_cache(maxsize=16)(self._render_judging)

    def reasoning(self, question: str, image_count: int, steps: Sequence[str]) -> str:
        """The prompt behind which the next step is written."""
        delimiter = self._settings.delimiter
        return self._opening(question, image_count) + "".join(step + delimiter for step in steps)

    def answer(self, question: str, image_count: int, steps: Sequence[str]) -> str:
        """The prompt behind which the answer is written: reasoning that is closed."""
        settings = self._settings
        thought = settings.delimiter.join(steps)
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
        close = f"\n{settings.think_close}" if closes else ""
        return (
            self.reasoning(question, image_count, steps)
            + f"{candidate}{close}{settings.delimiter}"
            + self._judging(instruction)
        )

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

    def _render(self, messages: list[dict[str, Any]], **options: Any) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **options
            )
        )
