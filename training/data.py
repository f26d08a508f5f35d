"""Sequences of token ids with what is to be learnt of them, and batches of these.

A sequence is a tree: its trunk is a whole true reasoning, and branches fork off behind a step, each with a
candidate (or none, where the trunk's own step is judged), the judge's instruction and its word. A branch sees
the trunk up to its fork and itself, as if it stood alone: one pass over the trunk serves many judgements.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from training.judging import Form, Judgement, corrupted_step
from training.task import SIDE, Example, examples
from training.tokens import BEST, DIGIT_INSTRUCTION, END, IMAGE, INSTRUCTION, NEGATIVE, POSITIVE, WORST

IGNORED = -100
DIGIT_SHARE = 0.2
"""Of the judgements, those that are asked for a digit."""
REASONING = ReasoningSettings()


@dataclass(slots=True)
class Encoded:
    """One sequence; every list has an entry a token.

    Attributes:
        labels: the id to be predicted *at* each place by the token before it, IGNORED where nothing is.
        sound: 1 where a token is the right one, 0 at a candidate's first wrong one, IGNORED elsewhere: behind
            a wrong token nothing is right or wrong by itself.
        word: 1 where the label is the judge's word or digit.
        position: distance from the start, as the branch sees it.
        branch: 0 for the trunk, then the branch's number.
        fork: how many of the trunk's tokens a branch sees.
    """

    grid: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    sound: list[int] = field(default_factory=list)
    word: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    fork: list[int] = field(default_factory=list)

    def add(
        self,
        ids: list[int],
        *,
        labels: list[int] | None = None,
        sound: list[int] | None = None,
        branch: int = 0,
        fork: int = 0,
    ) -> None:
        """Appends tokens of one branch; what is not given is IGNORED."""
        start = sum(number == branch for number in self.branch) + (fork if branch else 0)
        self.ids += ids
        self.labels += labels or [IGNORED] * len(ids)
        self.sound += sound or [IGNORED] * len(ids)
        self.word += [0] * len(ids)
        self.position += range(start, start + len(ids))
        self.branch += [branch] * len(ids)
        self.fork += [fork] * len(ids)


@dataclass(slots=True)
class Batch:
    """Sequences padded on the right. Shapes: grids [B, 9]; sees [B, 1, T, T] bool; the others [B, T]."""

    grids: Tensor
    ids: Tensor
    labels: Tensor
    sound: Tensor
    word: Tensor
    position: Tensor
    sees: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


class Encoder:
    """Turns examples into sequences, through the very prompts that the services use."""

    def __init__(self, tokenizer: Any, prompts: Prompts) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._instructions = {
            Form.WORD: self._instruction(INSTRUCTION),
            Form.DIGIT: self._instruction(DIGIT_INSTRUCTION),
        }
        self._words = {
            (Form.WORD, True): self.ids(POSITIVE),
            (Form.WORD, False): self.ids(NEGATIVE),
            (Form.DIGIT, True): self.ids(BEST),
            (Form.DIGIT, False): self.ids(WORST),
        }

    def _instruction(self, text: str) -> list[int]:
        judge = self._prompts.judge("", 0, (), "", False, text)
        return self.ids(judge[len(self._prompts.reasoning("", 0, ()) + REASONING.delimiter) :])

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with one image mark a cell."""
        expanded = text.replace(IMAGE, IMAGE * (SIDE * SIDE))
        return list(self._tokenizer(expanded, add_special_tokens=False)["input_ids"])

    def tree(self, example: Example, judgements: Sequence[tuple[Judgement, Form]]) -> Encoded:
        """The whole reasoning with its answer, and a branch for each judgement."""
        encoded = Encoded(example.grid)
        opening = self._prompts.reasoning(example.question, 1, ())
        encoded.add(self.ids(opening))
        forks = [len(encoded.ids)]
        last = len(example.steps) - 1
        for index, step in enumerate(example.steps):
            said = self.ids(_written(step, index == last))
            encoded.add(said, labels=said, sound=[1] * len(said))
            forks.append(len(encoded.ids))
        said = self.ids(example.answer + END)
        encoded.add(said, labels=said)
        for branch, (judgement, form) in enumerate(judgements, 1):
            if judgement.right:
                self._judge(encoded, True, form, branch, forks[judgement.index + 1])
            else:
                fork = forks[judgement.index]
                truth = encoded.ids[fork : forks[judgement.index + 1]]
                self._candidate(encoded, judgement, truth, branch, fork)
                self._judge(encoded, False, form, branch, fork)
        return encoded

    def _candidate(
        self, encoded: Encoded, judgement: Judgement, truth: list[int], branch: int, fork: int
    ) -> None:
        candidate = self.ids(_written(judgement.text, judgement.closes))
        known = 0
        for right, said in zip(truth, candidate, strict=False):
            if right != said:
                break
            known += 1
        behind = max(0, len(candidate) - known - 1)
        sound = [*[1] * known, *[0] * (len(candidate) - known - behind), *[IGNORED] * behind]
        encoded.add(candidate, sound=sound, branch=branch, fork=fork)

    def _judge(self, encoded: Encoded, right: bool, form: Form, branch: int, fork: int) -> None:
        word = self._words[form, right]
        encoded.add(self._instructions[form], branch=branch, fork=fork)
        encoded.add(word, labels=word, branch=branch, fork=fork)
        encoded.word[-1] = 1


def _written(text: str, closes: bool) -> str:
    close = f"\n{REASONING.think_close}" if closes else ""
    return f"{text}{close}{REASONING.delimiter}"


def collate(sequences: Sequence[Encoded], pad: int) -> Batch:
    """Pads on the right, to a multiple of 16 so that few shapes occur."""
    longest = max(len(sequence.ids) for sequence in sequences)
    length = (longest + 15) // 16 * 16

    def padded(name: str, filler: int) -> Tensor:
        rows = [getattr(sequence, name) for sequence in sequences]
        return torch.tensor([row + [filler] * (length - len(row)) for row in rows])

    branch, fork = padded("branch", -1), padded("fork", 0)
    place = torch.arange(length)
    earlier = place[None, :] <= place[:, None]
    own = branch[:, None, :] == branch[:, :, None]
    trunk = (branch[:, None, :] == 0) & (place[None, None, :] < fork[:, :, None])
    return Batch(
        grids=torch.tensor([sequence.grid for sequence in sequences]),
        ids=padded("ids", pad),
        labels=padded("labels", IGNORED),
        sound=padded("sound", IGNORED),
        word=padded("word", 0).bool(),
        position=padded("position", 0),
        sees=(earlier & (own | trunk))[:, None],
    )


class Stream(IterableDataset[Batch]):
    """Batches without end, for worker processes.

    Args:
        branches: wrong candidates in a tree at most, each beside the judgement of a right step.
        natural: candidates that the draft wrote itself, wrong ones among them; empty at first.
    """

    def __init__(
        self,
        encoder: Encoder,
        pad: int,
        *,
        size: int,
        seed: int,
        branches: int = 0,
        natural: Sequence[Judgement] = (),
    ) -> None:
        self._encoder = encoder
        self._pad = pad
        self._size = size
        self._seed = seed
        self._branches = branches
        wrong: dict[Example, list[Judgement]] = {}
        for judgement in natural:
            # A draft early in its training may write the image's mark, which stands for an image.
            if not judgement.right and IMAGE not in judgement.text:
                wrong.setdefault(judgement.example, []).append(judgement)
        self._wrong = list(wrong.values())

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        rng = random.Random(self._seed * 1000 + (worker.id if worker else 0))
        source = examples(rng, held_out=False)
        while True:
            # Sequences of like length go together, so that little is padded.
            drawn = sorted((self._draw(rng, source) for _ in range(8 * self._size)), key=_length)
            batches = [drawn[start : start + self._size] for start in range(0, len(drawn), self._size)]
            rng.shuffle(batches)
            for batch in batches:
                yield collate(batch, self._pad)

    def _draw(self, rng: random.Random, source: Iterator[Example]) -> Encoded:
        wrong: list[Judgement] = []
        example = next(source)
        if self._branches and self._wrong and rng.random() < 0.6:
            wrong = rng.choice(self._wrong)[: self._branches]
            example = wrong[0].example
        wrong = wrong + [corrupted_step(rng, example) for _ in range(self._branches - len(wrong))]
        # Beside each wrong candidate the right step of the same place: only the step tells them apart.
        last = len(example.steps) - 1
        right = [
            Judgement(example, index, example.steps[index], index == last)
            for index in sorted({judgement.index for judgement in wrong})
        ]
        judgements = wrong + right
        forms = rng.choices((Form.WORD, Form.DIGIT), (1 - DIGIT_SHARE, DIGIT_SHARE), k=len(judgements))
        return self._encoder.tree(example, list(zip(judgements, forms, strict=True)))


def _length(sequence: Encoded) -> int:
    return len(sequence.ids)
