"""Sequences of token ids with what is to be learnt of them, and batches of these."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from training.judging import Judgement, corrupted_step, true_step
from training.task import SIDE, Example, examples
from training.tokens import END, IMAGE, INSTRUCTION, NEGATIVE, POSITIVE

IGNORED = -100
REASONING = ReasoningSettings()


@dataclass(slots=True)
class Encoded:
    """One sequence.

    Attributes:
        labels: the id to be predicted *at* each place (not shifted), IGNORED where nothing is.
        sound: 1 while a candidate is right so far, 0 from its first wrong token on, IGNORED elsewhere.
        word: the place before the judge's word, or -1.
    """

    grid: tuple[int, ...]
    ids: list[int]
    labels: list[int]
    sound: list[int]
    word: int = -1


@dataclass(slots=True)
class Batch:
    """Sequences padded on the right. Shapes: grids [B, 9]; words [B]; the others [B, T]."""

    grids: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    sound: Tensor
    words: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return Batch(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


class Encoder:
    """Turns examples into sequences, through the very prompts that the services use."""

    def __init__(self, tokenizer: Any, prompts: Prompts) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, with one image mark a cell."""
        expanded = text.replace(IMAGE, IMAGE * (SIDE * SIDE))
        return list(self._tokenizer(expanded, add_special_tokens=False)["input_ids"])

    def reasoning(self, example: Example) -> Encoded:
        """The whole reasoning with its answer."""
        opening = self._prompts.reasoning(example.question, 1, ())
        closed = self._prompts.answer(example.question, 1, example.steps)
        asked = self.ids(opening)
        said = self.ids(closed[len(opening) :] + example.answer + END)
        ids = asked + said
        return Encoded(example.grid, ids, [IGNORED] * len(asked) + said, [IGNORED] * len(ids))

    def judgement(self, judgement: Judgement) -> Encoded:
        """A right prefix, the candidate, and the word that judges it."""
        example, index = judgement.example, judgement.index
        steps = example.steps[:index]
        opening = self._prompts.reasoning(example.question, 1, ())
        before = self._prompts.reasoning(example.question, 1, steps)
        asked, prefix = self.ids(opening), self.ids(before[len(opening) :])
        candidate = self.ids(self._written(judgement.text, judgement.closes))
        truth = self.ids(self._written(example.steps[index], index == len(example.steps) - 1))
        whole = self._prompts.judge(example.question, 1, steps, judgement.text, judgement.closes, INSTRUCTION)
        suffix = self.ids(whole[len(before) + len(self._written(judgement.text, judgement.closes)) :])
        word = self.ids(POSITIVE if judgement.right else NEGATIVE)
        sound, right = [], 1
        for place, token in enumerate(candidate):
            right = int(right and place < len(truth) and truth[place] == token)
            sound.append(right)
        # The right token is to be predicted up to and including the first wrong one.
        known = sum(sound)
        learnt = truth[: known + 1] if known < len(candidate) else truth[:known]
        said = (learnt + [IGNORED] * len(candidate))[: len(candidate)]
        ids = asked + prefix + candidate + suffix + word
        labels = [IGNORED] * len(asked) + prefix + said + [IGNORED] * len(suffix) + word
        around = len(asked) + len(prefix)
        marks = [IGNORED] * around + sound + [IGNORED] * (len(suffix) + len(word))
        return Encoded(example.grid, ids, labels, marks, word=len(ids) - 2)

    @staticmethod
    def _written(text: str, closes: bool) -> str:
        close = f"\n{REASONING.think_close}" if closes else ""
        return f"{text}{close}{REASONING.delimiter}"


def collate(sequences: Sequence[Encoded], pad: int) -> Batch:
    """Pads on the right, to a multiple of 32 so that few shapes occur."""
    longest = max(len(sequence.ids) for sequence in sequences)
    length = (longest + 31) // 32 * 32

    def padded(rows: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (length - len(row)) for row in rows])

    return Batch(
        grids=torch.tensor([sequence.grid for sequence in sequences]),
        ids=padded([sequence.ids for sequence in sequences], pad),
        mask=padded([[1] * len(sequence.ids) for sequence in sequences], 0),
        labels=padded([sequence.labels for sequence in sequences], IGNORED),
        sound=padded([sequence.sound for sequence in sequences], IGNORED),
        words=torch.tensor([sequence.word for sequence in sequences]),
    )


class Stream(IterableDataset[Batch]):
    """Batches without end, for worker processes.

    Args:
        judging: share of sequences that judge a candidate.
        natural: candidates that the draft wrote itself, wrong ones among them; empty at first.
    """

    def __init__(
        self,
        encoder: Encoder,
        pad: int,
        *,
        size: int,
        seed: int,
        judging: float = 0.0,
        natural: Sequence[Judgement] = (),
    ) -> None:
        self._encoder = encoder
        self._pad = pad
        self._size = size
        self._seed = seed
        self._judging = judging
        self._wrong = [judgement for judgement in natural if not judgement.right]

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        rng = random.Random(self._seed * 1000 + (worker.id if worker else 0))
        source = examples(rng, held_out=False)
        while True:
            yield collate([self._draw(rng, source) for _ in range(self._size)], self._pad)

    def _draw(self, rng: random.Random, source: Iterator[Example]) -> Encoded:
        if rng.random() >= self._judging:
            return self._encoder.reasoning(next(source))
        if rng.random() < 0.5:
            return self._encoder.judgement(true_step(rng, next(source)))
        if self._wrong and rng.random() < 0.65:
            return self._encoder.judgement(rng.choice(self._wrong))
        return self._encoder.judgement(corrupted_step(rng, next(source)))
