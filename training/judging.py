"""Examples for the judge: a right prefix, a candidate, and whether the candidate is the right step."""

import random
import re
from dataclasses import dataclass
from enum import Enum

from training.task import MAX_TOTAL, Example

MISREAD_SHARE = 0.5
"""Of the wrong candidates that are made, those that start from a misread digit."""

READING = re.compile(r"(step \d+ : .*?) shows ((?:\d )*\d) \.(?:.*? (\d+) ([+-]) \d+ = \d+ \.)? total \d+ \.")
"""A step's head, what it reads, and the sum at its end: the total before, and the sign."""


class Form(Enum):
    """How the judge is asked: for a word (TBVM) or for a digit (SpecReason)."""

    WORD = "word"
    DIGIT = "digit"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A candidate for position `index` of an example; right iff it is exactly the true step."""

    example: Example
    index: int
    text: str
    closes: bool

    @property
    def right(self) -> bool:
        """Steps are deterministic given a right prefix, so equality decides."""
        last = self.index == len(self.example.steps) - 1
        return self.text == self.example.steps[self.index] and self.closes == last


def corrupted_step(rng: random.Random, example: Example) -> Judgement:
    """A wrong candidate made from a right one: a misread or miscounted digit, another step, a wrong end."""
    while True:
        judgement = _misread(rng, example) if rng.random() < MISREAD_SHARE else _corrupt(rng, example)
        if not judgement.right:
            return judgement


def _misread(rng: random.Random, example: Example) -> Judgement:
    """One digit read wrongly, and all behind it reckoned rightly from there: the draft's own mistake."""
    index = rng.randrange(len(example.steps))
    text, closes = example.steps[index], index == len(example.steps) - 1
    if not (found := READING.fullmatch(text)):
        return Judgement(example, index, text, closes)
    head, read, *rest = found.groups()
    shown = [int(digit) for digit in read.split()]
    shown[rng.randrange(len(shown))] = rng.randrange(10)
    return Judgement(example, index, reckoned(text, head, shown, rest), closes)


def reckoned(text: str, head: str, shown: list[int], rest: list[str | None]) -> str:
    """The step from other digits; the text as it was where its total would leave the range.

    Args:
        rest: the total before and the sign, or None twice.
    """
    before, sign = rest
    read = f"{head} shows {' '.join(map(str, shown))}"
    value = shown[0]
    if len(shown) > 1:
        a, b, c = shown
        chosen = next((word for word in ("largest", "smallest") if word in text), None)
        if chosen:
            value = max(shown) if chosen == "largest" else min(shown)
            read += f" . {chosen} {value}"
        else:
            value = sum(shown)
            read += f" . {a} + {b} = {a + b} . {a + b} + {c} = {value}"
    if before is None:
        return f"{read} . total {value} ."
    after = int(before) + (value if sign == "+" else -value)
    if not 0 <= after <= MAX_TOTAL:
        return text
    return f"{read} . {before} {sign} {value} = {after} . total {after} ."


def _corrupt(rng: random.Random, example: Example) -> Judgement:
    index = rng.randrange(len(example.steps))
    text, closes = example.steps[index], index == len(example.steps) - 1
    kind = rng.random()
    if kind < 0.06:
        return Judgement(example, index, text, not closes)
    head, colon, work = text.partition(" : ")
    words = work.split(" ")
    if kind < 0.2:
        other = rng.choice(example.steps).partition(" : ")[2]
        return Judgement(example, index, head + colon + other, closes)
    places = [place for place, word in enumerate(words) if word.isdecimal()]
    place = rng.choice(places)
    old, new = words[place], _slip(rng, words[place])
    # A misread or miscounted number is often carried on: the rest of the step then agrees with it.
    carried = rng.random() < 0.5
    words[place] = new
    if carried:
        words[place + 1 :] = [new if word == old else word for word in words[place + 1 :]]
    return Judgement(example, index, head + colon + " ".join(words), closes)


def _slip(rng: random.Random, number: str) -> str:
    if rng.random() < 0.3:
        return str(max(0, int(number) + rng.choice((-10, -1, 1, 10))))
    place = rng.randrange(len(number))
    return number[:place] + rng.choice("0123456789") + number[place + 1 :]
