"""The bundled pair's task: read handwritten digits in a grid, and reckon with them step by step.

A question takes four to eight operations, one step each; every step says what it reads and how it reckons,
so that an error shows where it is made. The digits are scikit-learn's (1,797 real images of 8 x 8 pixels,
without their writers' names); every fifth sample is held out.
"""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 3
CELL_PIXELS = 16
MAX_TOTAL = 99
HELD_OUT_EVERY = 5
OPERATIONS = (4, 8)

Grid = tuple[int, ...]
"""Indices into the digits, row by row."""


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The images, [1797, CELL_PIXELS, CELL_PIXELS] of 0..255 with ink bright, and what they show, [1797]."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    small = (bunch.images * (255 / 16)).round().astype(np.uint8)
    size = (CELL_PIXELS, CELL_PIXELS)
    large = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in small]
    return np.stack(large), bunch.target.astype(np.int64)


@dataclass(frozen=True, slots=True)
class Example:
    """A question about a grid, with the reasoning and the answer that are right."""

    grid: Grid
    question: str
    steps: tuple[str, ...]
    answer: str

    @property
    def image(self) -> Image.Image:
        """The grid as an RGB image of SIDE x SIDE cells."""
        images, _ = digits()
        cells = images[list(self.grid)].reshape(SIDE, SIDE, CELL_PIXELS, CELL_PIXELS)
        pixels = cells.transpose(0, 2, 1, 3).reshape(SIDE * CELL_PIXELS, SIDE * CELL_PIXELS)
        return Image.fromarray(pixels).convert("RGB")

    def png(self) -> bytes:
        """The image as a PNG file."""
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Operation:
    """A clause of the question, what its step says behind its number, and the total it leaves."""

    clause: str
    work: str
    total: int


_Shown = Sequence[int]


def _cell(rng: random.Random, shown: _Shown) -> tuple[str, int]:
    row, column = rng.randrange(SIDE), rng.randrange(SIDE)
    return f"row {row + 1} column {column + 1}", shown[row * SIDE + column]


def _line(rng: random.Random, shown: _Shown) -> tuple[str, list[int]]:
    number = rng.randrange(SIDE)
    if rng.random() < 0.5:
        return f"row {number + 1}", list(shown[number * SIDE : (number + 1) * SIDE])
    return f"column {number + 1}", list(shown[number::SIDE])


def _start(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    name, value = _cell(rng, shown)
    return _Operation(f"start with {name}", f"{name} shows {value} . total {value}", value)


def _add(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    name, value = _cell(rng, shown)
    after = total + value
    work = f"{name} shows {value} . {total} + {value} = {after} . total {after}"
    return _Operation(f"add {name}", work, after)


def _subtract(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    name, value = _cell(rng, shown)
    after = total - value
    work = f"{name} shows {value} . {total} - {value} = {after} . total {after}"
    return _Operation(f"subtract {name}", work, after)


def _multiply(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    factor = rng.choice((2, 3, 4))
    after = total * factor
    return _Operation(f"multiply by {factor}", f"{total} * {factor} = {after} . total {after}", after)


def _add_sum(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    name, (a, b, c) = _line(rng, shown)
    after = total + a + b + c
    work = (
        f"{name} shows {a} {b} {c} . {a} + {b} = {a + b} . {a + b} + {c} = {a + b + c} . "
        f"{total} + {a + b + c} = {after} . total {after}"
    )
    return _Operation(f"add the sum of {name}", work, after)


def _add_largest(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    name, values = _line(rng, shown)
    after = total + max(values)
    listed = " ".join(map(str, values))
    work = (
        f"{name} shows {listed} . largest {max(values)} . {total} + {max(values)} = {after} . total {after}"
    )
    return _Operation(f"add the largest of {name}", work, after)


def _subtract_smallest(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    name, values = _line(rng, shown)
    after = total - min(values)
    listed = " ".join(map(str, values))
    work = (
        f"{name} shows {listed} . smallest {min(values)} . {total} - {min(values)} = {after} . total {after}"
    )
    return _Operation(f"subtract the smallest of {name}", work, after)


def _last_digit(rng: random.Random, shown: _Shown, total: int) -> _Operation:
    after = total % 10
    return _Operation("keep the last digit", f"the last digit of {total} is {after} . total {after}", after)


_Maker = Callable[[random.Random, _Shown, int], _Operation]
_MAKERS: tuple[tuple[_Maker, int], ...] = (
    (_add, 3),
    (_subtract, 2),
    (_multiply, 2),
    (_add_sum, 4),
    (_add_largest, 3),
    (_subtract_smallest, 2),
    (_last_digit, 1),
)


def make(rng: random.Random, grid: Grid) -> Example:
    """A random question about a grid."""
    _, labels = digits()
    shown = [int(labels[index]) for index in grid]
    operations = [_start(rng, shown, 0)]
    makers, weights = zip(*_MAKERS, strict=True)
    for _ in range(rng.randint(*OPERATIONS) - 1):
        total = operations[-1].total
        while True:
            made = rng.choices(makers, weights)[0](rng, shown, total)
            # Keeping the last digit of a single digit would be no work.
            if 0 <= made.total <= MAX_TOTAL and not (made.clause.startswith("keep") and total < 10):
                break
        operations.append(made)
    clauses = " , then ".join(operation.clause for operation in operations)
    return Example(
        grid=grid,
        question=f"{clauses} . what is the total ?",
        steps=tuple(f"step {number} : {made.work} ." for number, made in enumerate(operations, 1)),
        answer=str(operations[-1].total),
    )


def examples(rng: random.Random, *, held_out: bool) -> Iterator[Example]:
    """Random examples without end, from the training digits or the held-out ones."""
    images, _ = digits()
    pool = [index for index in range(len(images)) if (index % HELD_OUT_EVERY == 0) == held_out]
    while True:
        yield make(rng, tuple(rng.choices(pool, k=SIDE * SIDE)))


def held_out(count: int, seed: int) -> Iterator[Example]:
    """`count` examples of held-out handwriting; the same for the same seed."""
    return islice(examples(random.Random(seed), held_out=True), count)


def calibration(count: int, seed: int) -> Iterator[Example]:
    """`count` other questions about held-out handwriting: what is chosen by them is measured by `held_out`'s.

    The digits are the same 360, since on those of training a draft makes next to no mistakes; grids and
    questions are drawn from seeds that `held_out` does not have.
    """
    return islice(examples(random.Random(f"calibration {seed}"), held_out=True), count)


def example_words() -> set[str]:
    """Every word that questions and steps are made of; numbers apart."""
    source = examples(random.Random(0), held_out=False)
    texts = (
        text for _ in range(500) for example in [next(source)] for text in (example.question, *example.steps)
    )
    return {word for text in texts for word in text.split() if not word.isdecimal()}
