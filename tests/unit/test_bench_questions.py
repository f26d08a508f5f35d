"""Questions of a bench run: from files, and as no cache has seen them."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from bench.questions import cold, from_file, held_out


def test_a_cold_image_has_other_bytes_and_the_same_pixels() -> None:
    image = held_out(1, seed=3)[0].image
    first, second = cold(image, "1 target"), cold(image, "1 fpsr")
    assert len({image, first, second}) == 3
    opened = [Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in (image, first, second)]
    assert opened[0] == opened[1] == opened[2]


def test_a_file_of_questions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    file = tmp_path / "questions.jsonl"
    file.write_text(json.dumps({"image": "a.png", "question": "what ?", "answer": 7}) + "\n")
    (question,) = from_file(file)
    assert (question.image, question.text, question.answer) == (b"png", "what ?", "7")
    file.write_text("{}\n")
    with pytest.raises(ValueError, match=r"questions.jsonl:1: needs image, question and answer"):
        from_file(file)
