"""A training tree's branch is, token by token, the prompt that the target is asked with when it serves."""

import random
from pathlib import Path

import pytest
import torch

from services.common.prompts import Prompts
from training.data import IGNORED, REASONING, Encoded, Encoder, collate
from training.judging import Form, Judgement, corrupted_step
from training.model import make_processor
from training.task import examples
from training.tokens import DIGIT_INSTRUCTION, INSTRUCTION, make_tokenizer

ASKED = {Form.WORD: INSTRUCTION, Form.DIGIT: DIGIT_INSTRUCTION}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Prompts:
    folder = tmp_path_factory.mktemp("processor")
    make_processor(make_tokenizer()).save_pretrained(folder)
    return Prompts(Path(folder), REASONING)


def seen(tree: Encoded, branch: int) -> list[int]:
    """The ids that a branch's last token sees, in order."""
    (sees,) = collate([tree], pad=0).sees[0]
    last = max(place for place, number in enumerate(tree.branch) if number == branch)
    return [tree.ids[place] for place in torch.nonzero(sees[last]).flatten().tolist()]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("right", [True, False])
def test_a_branch_is_the_judges_prompt(prompts: Prompts, form: Form, right: bool) -> None:
    encoder = Encoder(make_tokenizer(), prompts)
    chance = random.Random(1)
    example = next(examples(chance, held_out=False))
    last = len(example.steps) - 1
    for index in range(len(example.steps)):
        judgement = Judgement(example, index, example.steps[index], index == last)
        if not right:
            judgement = corrupted_step(chance, example)
        tree = encoder.tree(example, [(judgement, form)])
        judged = prompts.judge(
            example.question,
            1,
            example.steps[: judgement.index],
            judgement.text,
            judgement.closes,
            ASKED[form],
        )
        *asked, word = seen(tree, 1)
        assert asked == encoder.ids(judged)
        texts = {(Form.WORD, True): "positive", (Form.WORD, False): "negative", (Form.DIGIT, True): "9"}
        assert [word] == encoder.ids(texts.get((form, right), "0"))


def test_a_candidate_is_sound_up_to_its_first_wrong_token(prompts: Prompts) -> None:
    encoder = Encoder(make_tokenizer(), prompts)
    example = next(examples(random.Random(2), held_out=False))
    wrong = example.steps[0].replace("total", "shows")
    tree = encoder.tree(example, [(Judgement(example, 0, wrong, False), Form.WORD)])
    marks = [sound for sound, branch in zip(tree.sound, tree.branch, strict=True) if branch == 1]
    first = marks.index(0)
    assert marks[:first] == [1] * first
    assert set(marks[first + 1 :]) == {IGNORED}
    assert encoder.ids(wrong)[first] == encoder.ids(" shows")[0]
