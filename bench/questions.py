"""Questions with their answers: the bundled pair's held-out ones, or a file's."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo


@dataclass(frozen=True, slots=True)
class Question:
    """An encoded image, what is asked about it, and what is right."""

    image: bytes
    text: str
    answer: str


def held_out(count: int, seed: int) -> list[Question]:
    """Held-out handwriting; the same for the same seed."""
    from training import task

    return [
        Question(example.png(), example.question, example.answer) for example in task.held_out(count, seed)
    ]


def from_file(path: Path) -> list[Question]:
    """JSON lines with `image` (a path beside the file), `question` and `answer`.

    Raises:
        OSError: a file cannot be read.
        ValueError: a line is not of that form.
    """
    questions = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            image = (path.parent / fields["image"]).read_bytes()
            questions.append(Question(image, fields["question"], str(fields["answer"])))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}:{number}: needs image, question and answer") from error
    return questions


def cold(image: bytes, mark: str) -> bytes:
    """The same pixels as a file that no cache has seen: `mark` stands in a text chunk of the PNG.

    Policies that answer the same question one after the other would warm each other's caches otherwise.
    """
    note = PngInfo()
    note.add_text("mark", mark)
    written = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        opened.save(written, format="PNG", pnginfo=note)
    return written.getvalue()
