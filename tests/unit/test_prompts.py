"""The three prompts, as the model's own chat template writes them."""

from pathlib import Path

import pytest

from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from training.tokens import INSTRUCTION, make_tokenizer


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    folder = tmp_path_factory.mktemp("template")
    make_tokenizer().save_pretrained(folder)
    return Prompts(folder, ReasoningSettings())


def test_reasoning_goes_on_behind_the_steps(prompts: Prompts) -> None:
    prompt = prompts.reasoning("how many ?", 1, ["one .", "two ."])
    assert prompt == "<|user|><image>how many ?<|end|><|assistant|><think>\none .\n\ntwo .\n\n"


def test_the_answer_stands_behind_closed_reasoning(prompts: Prompts) -> None:
    assert prompts.answer("q", 0, ["one ."]).endswith("<think>\none .\n</think>\n\n")


def test_the_judge_extends_the_reasoning(prompts: Prompts) -> None:
    before = prompts.reasoning("q", 1, ["one ."])
    judged = prompts.judge("q", 1, ["one ."], "two .", False, INSTRUCTION)
    assert judged == f"{before}two .\n\n<|end|><|user|>{INSTRUCTION}<|end|><|assistant|>"
    closing = prompts.judge("q", 1, ["one ."], "two .", True, INSTRUCTION)
    assert closing.startswith(f"{before}two .\n</think>\n\n<|end|>")


def test_a_template_that_always_thinks_has_its_thought_closed(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    prompts = Prompts(tmp_path, ReasoningSettings())
    judged = prompts.judge("q", 0, [], "one .", False, "right ?")
    assert judged.endswith("one .\n\n[user]right ?[assistant]<think>\n\n</think>\n\n")


def test_a_folder_without_a_template_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="chat template"):
        Prompts(tmp_path, ReasoningSettings())
