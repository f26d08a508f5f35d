"""Questions to learn from: the bundled task's, on images that nobody has seen, or a file's."""

import hashlib
import io
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from training.data import REASONING
from training.images import Images
from training.task import HELD_OUT_EVERY, SIDE, digits, make
from training.tokens import END, THINK_CLOSE, make_tokenizer

VALIDATION_REST = 1
"""Of the training digits those whose index leaves this rest are only validated on."""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask.

    Attributes:
        images: encoded files.
        target_tokens: of the target's own reasoning and answer; None where it has not been asked yet.
    """

    text: str
    images: tuple[bytes, ...]
    answer: str
    target_tokens: int | None = None

    def __hash__(self) -> int:
        # Images are long, and a question is looked up with each verdict.
        return hash((self.text, self.answer))


def bundled(count: int, seed: int, *, validation: bool = False) -> list[Question]:
    """Questions of the bundled task, about training handwriting that is distorted.

    On clean training images the draft makes next to no mistakes; on distorted ones it errs as on handwriting
    it does not know. Held-out digits are never among them. What the target takes is the length of the right
    reasoning, which it was taught to write.

    Args:
        validation: from the digits that are set aside for validation, instead of all others.
    """
    _, labels = digits()
    pool = [
        index
        for index in range(len(labels))
        if index % HELD_OUT_EVERY != 0 and (index % HELD_OUT_EVERY == VALIDATION_REST) == validation
    ]
    rng = random.Random(f"{seed} {validation}")
    made = [make(rng, tuple(rng.choices(pool, k=SIDE * SIDE))) for _ in range(count)]
    tokenizer = make_tokenizer()
    images = Images(torch.device("cpu"))
    files = list[bytes]()
    with torch.random.fork_rng():
        torch.manual_seed(rng.getrandbits(32))
        for start in range(0, count, _BATCH):
            grids = torch.tensor([one.grid for one in made[start : start + _BATCH]])
            files += map(_png, images.pixels(grids, distort=True))
    found = []
    for one, file in zip(made, files, strict=True):
        thought = REASONING.delimiter.join(one.steps)
        written = f"{thought}\n{THINK_CLOSE}{REASONING.delimiter}{one.answer}{END}"
        tokens = len(tokenizer(written, add_special_tokens=False)["input_ids"])
        found.append(Question(one.question, (file,), one.answer, tokens))
    return found


def from_file(path: Path) -> list[Question]:
    """JSON lines with `question`, `images` (paths beside the file) or `image`, and `answer`.

    `target_tokens` may say how many the target writes for it, if that is known.

    Raises:
        OSError: a file cannot be read.
        ValueError: a line is not of that form, or there is none.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            names = fields["images"] if "images" in fields else [fields["image"]] if "image" in fields else []
            tokens = fields.get("target_tokens")
            found.append(
                Question(
                    fields["question"],
                    tuple((path.parent / name).read_bytes() for name in names),
                    str(fields["answer"]),
                    None if tokens is None else max(1, int(tokens)),
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: needs question, images and answer") from error
    if not found:
        raise ValueError(f"{path}: holds no question")
    return found


def split(questions: list[Question], validation: int, seed: int) -> tuple[list[Question], list[Question]]:
    """Questions to train on and to validate with; all of one question's lines are on the same side.

    Raises:
        ValueError: too few are left to train on.
    """
    ranked = sorted(
        questions,
        key=lambda one: hashlib.sha256(f"{seed} {one.text}".encode() + b"".join(one.images)).digest(),
    )
    kept, asked = ranked[validation:], ranked[:validation]
    seen = {(one.text, one.images) for one in asked}
    kept = [one for one in kept if (one.text, one.images) not in seen]
    if not kept:
        raise ValueError(f"{len(questions)} questions are none to train on and {validation} to validate with")
    return kept, asked


def order(count: int, length: int, seed: int) -> list[int]:
    """Which of `count` questions come when: each once before any comes again. Longer orders begin alike."""
    rng = random.Random(seed)
    found = list[int]()
    while len(found) < length:
        found += rng.sample(range(count), count)
    return found[:length]


def _png(pixels: torch.Tensor) -> bytes:
    """A PNG file of pixel values [3, height, width] within about -1..1."""
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()
