"""Questions with their answers: the bundled pair's held-out ones, or a file's."""

import importlib
import importlib.util
import io
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamr.cluster.triton import MODELS


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what is right.

    Attributes:
        images: encoded files.
        answer: that is right; None where nobody has said it.
        steps: of the reasoning, where there is one right wording; otherwise none.
    """

    images: tuple[bytes, ...]
    text: str
    answer: str | None
    steps: tuple[str, ...] = ()

    @property
    def image(self) -> bytes:
        """The only one, as the bundled pair's questions have it."""
        (image,) = self.images
        return image

    def is_right(self, answer: str) -> bool:
        """Whether an answer is the right one, whatever its case, spaces, full stop and box."""
        return self.answer is not None and _plain(answer) == _plain(self.answer)


_BOXED = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)


def _plain(answer: str) -> str:
    boxed = _BOXED.search(answer)
    return " ".join((boxed[1] if boxed else answer).casefold().split()).removesuffix(".").rstrip()


def held_out(count: int, seed: int) -> list[Question]:
    """Held-out handwriting; the same for the same seed."""
    from training import task

    return [
        Question((example.png(),), example.question, example.answer) for example in task.held_out(count, seed)
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
    """JSON lines: `question`; `images` (a list of paths beside the file) or a single `image`; `answer`, where
    it is known; `steps`, the only right ones, where there are such.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is not of that form, or an image cannot be read; names the line.
    """
    questions = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if line.strip():
            try:
                questions.append(_question(path.parent, json.loads(line)))
            except (OSError, ValueError) as error:
                # Not JSON, no image, or what is said below.
                raise ValueError(f"{path}:{number}: {error}") from error
    return questions


_KEYS = {"question", "image", "images", "answer", "steps"}


def _question(folder: Path, fields: Any) -> Question:
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON object")
    if unknown := sorted(set(fields) - _KEYS):
        raise ValueError(f"has {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    text, answer, steps = fields.get("question"), fields.get("answer"), fields.get("steps", [])
    if not isinstance(text, str) or not text.strip():
        raise ValueError("question: must be a text")
    if not isinstance(answer, str | int | float | None) or isinstance(answer, bool):
        raise ValueError("answer: must be a text or a number")
    paths = fields.get("images", [fields["image"]] if "image" in fields else [])
    for name, texts in (("images", paths), ("steps", steps)):
        if not isinstance(texts, list) or not all(isinstance(one, str) for one in texts):
            raise ValueError(f"{name}: must be a list of texts")
    images = tuple((folder / path).read_bytes() for path in paths)
    for path, image in zip(paths, images, strict=True):
        try:
            with Image.open(io.BytesIO(image)) as opened:
                opened.verify()
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path}: is no image") from error
    return Question(images, text, None if answer is None else str(answer), tuple(steps))


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
