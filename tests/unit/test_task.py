"""The bundled task: deterministic questions whose steps and answers are right."""

import random
import re
from itertools import islice

from training.evaluate import auc
from training.judging import corrupted_step
from training.task import HELD_OUT_EVERY, MAX_TOTAL, digits, examples, held_out
from training.tokens import make_tokenizer


def test_the_same_seed_asks_the_same_questions() -> None:
    assert list(held_out(5, seed=1)) == list(held_out(5, seed=1))
    assert list(held_out(5, seed=1)) != list(held_out(5, seed=2))


def test_training_and_held_out_digits_are_apart() -> None:
    for held, source in (
        (True, examples(random.Random(0), held_out=True)),
        (False, examples(random.Random(0), held_out=False)),
    ):
        for example in islice(source, 200):
            assert all((index % HELD_OUT_EVERY == 0) == held for index in example.grid)


def test_every_sum_that_a_step_states_is_right() -> None:
    signs = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for example in held_out(300, seed=3):
        assert 4 <= len(example.steps) <= 8
        for step in example.steps:
            for left, sign, right, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", step):
                assert signs[sign](int(left), int(right)) == int(result)
        last = re.search(r"total (\d+) \.$", example.steps[-1])
        assert last is not None
        assert last[1] == example.answer
        assert 0 <= int(example.answer) <= MAX_TOTAL


def test_a_step_reads_what_the_image_shows() -> None:
    _, labels = digits()
    for example in held_out(100, seed=4):
        for step in example.steps:
            for row, column, value in re.findall(r"row (\d) column (\d) shows (\d)", step):
                cell = (int(row) - 1) * 3 + int(column) - 1
                assert labels[example.grid[cell]] == int(value)


def test_images_are_png() -> None:
    example = next(held_out(1, seed=5))
    assert example.image.size == (48, 48)
    assert example.png().startswith(b"\x89PNG")


def test_a_corrupted_step_is_wrong() -> None:
    rng = random.Random(6)
    for example in held_out(200, seed=6):
        assert not corrupted_step(rng, example).right


def test_text_is_the_sum_of_its_tokens() -> None:
    tokenizer = make_tokenizer()
    for example in held_out(50, seed=7):
        thought = "\n\n".join(example.steps)
        text = f"<think>\n{thought}\n</think>\n\n{example.answer}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_auc_counts_ties_half() -> None:
    assert auc([0.9, 0.8, 0.1], [True, True, False]) == 1
    assert auc([0.5, 0.5], [True, False]) == 0.5
