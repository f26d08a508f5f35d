"""Lets a model write many texts at once: for evaluation, and for the draft's natural mistakes."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from services.common.prompts import Prompts
from training.data import REASONING, Encoder
from training.images import Images
from training.judging import Judgement
from training.task import Example
from training.tokens import END, INSTRUCTION, NEGATIVE, POSITIVE, THINK_CLOSE

# More at once is slower on a CPU: the cache of past keys and values no longer fits its caches.
BATCH = 64


class Writer:
    """One model, asked in batches."""

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: Any,
        prompts: Prompts,
        images: Images,
        device: torch.device,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._encoder = Encoder(tokenizer, prompts)
        self._images = images
        self._device = device
        self._end, self._close, self._blank = (
            tokenizer.convert_tokens_to_ids(token) for token in (END, THINK_CLOSE, REASONING.delimiter)
        )

    def answers(self, examples: Sequence[Example]) -> list[tuple[tuple[str, ...], str]]:
        """Each example's steps and answer, written greedily by this model alone."""
        opened = [self._prompts.reasoning(example.question, 1, ()) for example in examples]
        texts = self._write(opened, examples, max_tokens=360, stops=[self._end], temperature=0)
        found = []
        for text in texts:
            thought, _, answer = text.removesuffix(END).partition(THINK_CLOSE)
            steps = tuple(step.strip() for step in thought.split(REASONING.delimiter) if step.strip())
            found.append((steps, answer.strip()))
        return found

    def candidates(
        self, places: Sequence[tuple[Example, int]], *, temperature: float, distort: bool = False
    ) -> list[Judgement]:
        """This model's own step for each position, given the true steps before it.

        With `distort` it sees each image through other hands, and errs as on handwriting it does not know.
        """
        prompts = [
            self._prompts.reasoning(example.question, 1, example.steps[:index]) for example, index in places
        ]
        stops = [self._end, self._close, self._blank]
        texts = self._write(
            prompts,
            [example for example, _ in places],
            max_tokens=64,
            stops=stops,
            temperature=temperature,
            distort=distort,
        )
        return [
            Judgement(
                example,
                index,
                text.removesuffix(END).partition(THINK_CLOSE)[0].strip(),
                text.endswith((THINK_CLOSE, END)),
            )
            for (example, index), text in zip(places, texts, strict=True)
        ]

    @torch.inference_mode()
    def scores(self, judgements: Sequence[Judgement]) -> list[float]:
        """TBVM's score of each candidate by this model: p_pos / (p_pos + p_neg)."""
        positive, negative = (self._tokenizer.convert_tokens_to_ids(word) for word in (POSITIVE, NEGATIVE))
        scores: list[float] = []
        for start in range(0, len(judgements), BATCH):
            chunk = judgements[start : start + BATCH]
            prompts = [
                self._prompts.judge(
                    found.example.question,
                    1,
                    found.example.steps[: found.index],
                    found.text,
                    found.closes,
                    INSTRUCTION,
                )
                for found in chunk
            ]
            ids, mask, pixels = self._inputs(prompts, [found.example for found in chunk])
            out = self._model(input_ids=ids, attention_mask=mask, pixel_values=pixels, logits_to_keep=1)
            logits = out.logits[:, -1, [positive, negative]].float()
            scores += torch.softmax(logits, -1)[:, 0].tolist()
        return scores

    @torch.inference_mode()
    def _write(
        self,
        prompts: Sequence[str],
        examples: Sequence[Example],
        *,
        max_tokens: int,
        stops: list[int],
        temperature: float,
        distort: bool = False,
    ) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(prompts), BATCH):
            ids, mask, pixels = self._inputs(
                prompts[start : start + BATCH], examples[start : start + BATCH], distort=distort
            )
            drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {}
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                pixel_values=pixels,
                max_new_tokens=max_tokens,
                eos_token_id=stops,
                pad_token_id=self._tokenizer.pad_token_id,
                **(drawn or {"do_sample": False}),
            )
            for row in out[:, ids.shape[1] :].tolist():
                kept = [token for token in row if token != self._tokenizer.pad_token_id]
                texts.append(self._tokenizer.decode(kept))
        return texts

    def _inputs(
        self, prompts: Sequence[str], examples: Sequence[Example], *, distort: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Prompts padded on the left, and their images."""
        rows = [self._encoder.ids(prompt) for prompt in prompts]
        longest = max(map(len, rows))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=self._device)
        grids = torch.tensor([example.grid for example in examples], device=self._device)
        return ids, (ids != pad).long(), self._images.pixels(grids, distort=distort)


def places(rng: random.Random, examples: Sequence[Example]) -> list[tuple[Example, int]]:
    """One random position in each example."""
    return [(example, rng.randrange(len(example.steps))) for example in examples]
