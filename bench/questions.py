"""Questions with their answers: the bundled pair's held-out ones, or a file's."""

import importlib
import importlib.util
import io
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamr.cluster.triton import MODELS


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


def emulated(count: int, seed: int) -> list[Question]:
    """The same questions, with the answers that an emulated pair gives."""
    from services.common.pair import Pair
    from services.common.prompts import Prompts

    # Backends are laid out for Triton and are no package of ours: loaded by their path, as Triton does.
    folder = MODELS / "backends" / "emulated"
    spec = importlib.util.spec_from_file_location(
        "dreamr_emulated", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    sys.modules["dreamr_emulated"] = importlib.util.module_from_spec(spec)
    script = importlib.import_module("dreamr_emulated.script")
    pair = Pair.load(MODELS / "emulated" / "pair.toml")
    prompts = Prompts(pair.target.template, pair.reasoning)

    def answer(question: str) -> str:
        said: str = script.Script.answer(script.Asked.of(prompts.reasoning(question, 1, ())))
        return said.strip()

    return [replace(one, answer=answer(one.text)) for one in held_out(count, seed)]


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
