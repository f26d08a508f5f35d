"""Questions of a bench run: from files, and as no cache has seen them."""

import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from bench.questions import Question, cold, from_file, held_out
from training import task


def test_a_cold_image_has_other_bytes_and_the_same_pixels() -> None:
    image = held_out(1, seed=3)[0].image
    first, second = cold(image, "1 target"), cold(image, "1 fpsr")
    assert len({image, first, second}) == 3
    opened = [Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in (image, first, second)]
    assert opened[0] == opened[1] == opened[2]


def write(folder: Path, *lines: object) -> Path:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    Image.new("RGB", (5, 5)).save(folder / "b.jpg")
    (folder / "text.png").write_text("no image")
    file = folder / "questions.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return file


def test_a_file_of_questions(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        {"image": "a.png", "question": "what ?", "answer": 7},
        "",
        {"images": ["a.png", "b.jpg"], "question": "which ?", "steps": ["one .", "two ."]},
        {"question": "why ?", "answer": "because"},
    )
    png, jpg = ((tmp_path / name).read_bytes() for name in ("a.png", "b.jpg"))
    assert from_file(file) == [
        Question((png,), "what ?", "7"),
        Question((png, jpg), "which ?", None, ("one .", "two .")),
        Question((), "why ?", "because"),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "Expecting"),
        ("[]", "must be a JSON object"),
        ({"image": "a.png"}, "question: must be a text"),
        ({"question": " "}, "question: must be a text"),
        ({"question": "?", "images": "a.png"}, "images: must be a list of texts"),
        ({"question": "?", "images": ["none.png"]}, "none.png"),
        ({"question": "?", "image": "text.png"}, "text.png: is no image"),
        ({"question": "?", "answer": ["7"]}, "answer: must be a text or a number"),
        ({"question": "?", "steps": [1]}, "steps: must be a list of texts"),
        ({"question": "?", "anwser": "7"}, "has 'anwser'; known are answer,"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, line: object, problem: str) -> None:
    file = write(tmp_path, {"question": "fine ?"}, "", line)
    with pytest.raises(ValueError, match=re.escape(problem)) as refused:
        from_file(file)
    assert f"{file}:3: " in str(refused.value)


@pytest.mark.parametrize(
    ("said", "right"),
    [("42", True), (" 42.\n", True), ("so \\boxed{42}", True), ("43", False), ("the 42", False)],
)
def test_an_answer_is_right_whatever_its_dress(said: str, right: bool) -> None:
    assert Question((), "?", "42").is_right(said) is right
    assert not Question((), "?", None).is_right(said)


def test_questions_to_calibrate_by_are_others() -> None:
    measured = {example.question for example in task.held_out(300, seed=1)}
    assert not measured & {example.question for example in task.calibration(300, seed=1)}
    grids = [example.grid for example in task.calibration(50, seed=1)]
    assert all(index % task.HELD_OUT_EVERY == 0 for grid in grids for index in grid)
