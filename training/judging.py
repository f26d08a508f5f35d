"""Examples for the judge: a right prefix, a candidate, and whether the candidate is the right step."""

import random
from dataclasses import dataclass
from enum import Enum

from training.task import Example


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
        judgement = _corrupt(rng, example)
        if not judgement.right:
            return judgement


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
