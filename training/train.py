"""The recipe: teach the draft, collect its natural mistakes, teach the target to reason and to judge them.

Phases are saved as they end and, within one, every so often; a run that was stopped goes on from there.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from services.common.prompts import Prompts
from training.data import REASONING, Batch, Encoder, Stream
from training.images import Images
from training.judging import Judgement
from training.model import SIZES, make_model, make_processor
from training.task import examples
from training.tokens import make_tokenizer
from training.trainee import Trainee
from training.writing import Writer, places

SAVE_SECONDS = 60.0
CHECK_STEPS, CHECKED = 50, 192

Optimizers = list[torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast.

    Attributes:
        batch: sequences a step.
        draft_steps: at most; a draft that knows as much as its target would make a pair that shows nothing,
            so its training ends once `draft_enough` of its steps on distorted images are right.
        natural: steps to collect from the draft.
        draft_rate: peak learning rate.
        branches: wrong candidates in each of the target's sequences.
        compiled: fuse the decoder's layers, a third less time on a CPU; needs a C++ compiler.
    """

    batch: int = 16
    look_steps: int = 1_500
    draft_look_steps: int = 500
    draft_steps: int = 3_000
    draft_enough: float = 0.85
    reason_steps: int = 600
    judge_steps: int = 2_600
    natural: int = 9_000
    draft_rate: float = 3e-3
    target_rate: float = 2e-3
    branches: int = 4
    workers: int = 1
    compiled: bool = False
    seed: int = 0

    @classmethod
    def tiny(cls) -> "Recipe":
        """A few steps of everything, for tests."""
        return cls(
            batch=4,
            look_steps=2,
            draft_look_steps=2,
            draft_steps=2,
            reason_steps=2,
            judge_steps=2,
            natural=8,
            workers=0,
        )


class Run:
    """One training run in a folder.

    Args:
        folder: checkpoints, natural mistakes, metrics and at last the two models; reused when it exists.
    """

    def __init__(self, folder: Path, recipe: Recipe, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._recipe = recipe
        self._device = device
        self._tokenizer = make_tokenizer()
        make_processor(self._tokenizer).save_pretrained(folder / "processor")
        self._prompts = Prompts(folder / "processor", REASONING)
        self._encoder = Encoder(self._tokenizer, self._prompts)
        self._images = Images(device)

    def draft(self) -> None:
        """Teaches the draft, and collects its natural mistakes."""
        recipe = self._recipe
        draft = self._trainee("draft")
        taken = self._phase("draft-look", draft, recipe.draft_look_steps, recipe.draft_rate, look=True)
        taken += self._phase(
            "draft-reason",
            draft,
            recipe.draft_steps,
            recipe.draft_rate,
            enough=lambda: self._right(draft) >= recipe.draft_enough,
        )
        self.export("draft", draft, taken)
        self._natural(draft)

    def target(self) -> None:
        """Teaches the target to reason, and then to judge the draft's natural mistakes too."""
        recipe = self._recipe
        target = self._trainee("target")
        taken = self._phase("target-look", target, recipe.look_steps, recipe.target_rate, look=True)
        taken += self._phase(
            "target-reason", target, recipe.reason_steps, recipe.target_rate, branches=recipe.branches
        )
        natural = list(torch.load(self._folder / "natural.pt", weights_only=False))
        taken += self._phase(
            "target-judge",
            target,
            recipe.judge_steps,
            recipe.target_rate,
            branches=recipe.branches,
            natural=natural,
        )
        self.export("target", target, taken)

    def writer(self, trainee: Trainee) -> Writer:
        """The trainee as a writer."""
        trainee.eval()
        return Writer(trainee.model, self._tokenizer, self._prompts, self._images, self._device)

    def export(self, name: str, trainee: Trainee, taken: int) -> None:
        """Saves a model, trained for `taken` steps, as a Hugging Face folder in bf16."""
        folder = self._folder / name
        make_processor(self._tokenizer).save_pretrained(folder)
        model = trainee.model
        model.config.save_pretrained(folder)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
        weights = {key: value.to("cpu", torch.bfloat16) for key, value in model.state_dict().items()}
        del weights["lm_head.weight"]  # tied to the embedding
        note = f"{taken:,} steps by this recipe on {self._device.type}."
        parameters = sum(value.numel() for value in weights.values())
        (folder / "training.json").write_text(
            json.dumps({"note": note, "parameters": parameters}, indent=2) + "\n"
        )
        save_file(
            {key: value.contiguous() for key, value in weights.items()},
            folder / "model.safetensors",
            {"format": "pt"},
        )

    # --- phases -----------------------------------------------------------------------------------

    def _trainee(self, name: str) -> Trainee:
        model = make_model(SIZES[name], self._tokenizer)
        if self._recipe.compiled:
            for layer in model.model.language_model.layers:
                layer.compile(dynamic=True)
        return Trainee(model, self._images, SIZES[name]).to(self._device)

    def _phase(
        self,
        name: str,
        trainee: Trainee,
        steps: int,
        rate: float,
        *,
        look: bool = False,
        branches: int = 0,
        natural: list[Judgement] | None = None,
        enough: Callable[[], bool] | None = None,
    ) -> int:
        """Trains for `steps`, on a cosine from `rate` to a twentieth of it, or until `enough`.

        Returns how many steps were taken.
        """
        path = self._folder / f"{name}.pt"
        optimizers = _optimizers(trainee, rate)
        done, over = self._restore(path, trainee, optimizers)
        if over:
            return done
        stream = Stream(
            self._encoder,
            self._tokenizer.pad_token_id,
            size=self._recipe.batch,
            # A run that goes on must not see the same batches again.
            seed=self._recipe.seed + 7 * done + sum(map(ord, name)),
            branches=branches,
            natural=natural or (),
        )
        loader: Iterator[Batch] = iter(DataLoader(stream, batch_size=None, num_workers=self._recipe.workers))
        trainee.train()
        saved, step = time.monotonic(), done - 1
        with tqdm(total=steps, initial=done, desc=name, unit="step", mininterval=2) as bar:
            for step in range(done, steps):
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate * _schedule(step, steps)
                batch = next(loader).to(self._device)
                shown = self._learn(trainee, optimizers, batch, look=look)
                bar.update()
                if step % 50 == 49 or step == steps - 1:
                    figures = {key: round(value.item(), 4) for key, value in shown.items()}
                    bar.set_postfix(figures)
                    self._note({"phase": name, "step": step + 1, **figures})
                if enough and step % CHECK_STEPS == CHECK_STEPS - 1 and enough():
                    break
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save(path, trainee, optimizers, step + 1)
                    saved = time.monotonic()
        self._save(path, trainee, optimizers, step + 1, over=True)
        return step + 1

    def _learn(
        self, trainee: Trainee, optimizers: Optimizers, batch: Batch, *, look: bool
    ) -> dict[str, torch.Tensor]:
        with torch.autocast(self._device.type, torch.bfloat16):
            if look:
                total = trainee.look(batch)
                shown = {"digit": total}
            else:
                losses = trainee(batch)
                total = losses.total
                shown = {name: getattr(losses, name) for name in ("text", "word", "sound", "digit")}
        trainee.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        return {name: value.detach() for name, value in shown.items()}

    def _right(self, trainee: Trainee) -> float:
        """The share of right steps, written greedily on distorted training images."""
        rng = random.Random(self._recipe.seed + 2)
        asked = places(rng, list(islice(examples(rng, held_out=False), CHECKED)))
        found = self.writer(trainee).candidates(asked, temperature=0, distort=True)
        trainee.train()
        share = sum(judgement.right for judgement in found) / len(found)
        self._note({"right": share})
        return share

    def _natural(self, draft: Trainee) -> None:
        """Steps that the draft writes on training images given true prefixes, right and wrong."""
        path = self._folder / "natural.pt"
        if path.exists():
            return
        rng = random.Random(self._recipe.seed + 1)
        source = examples(rng, held_out=False)
        writer, found = self.writer(draft), list[Judgement]()
        with tqdm(total=self._recipe.natural, desc="natural steps", unit="step") as bar:
            while len(found) < self._recipe.natural:
                temperature = rng.choice((0.0, 0.7, 1.0))
                asked = [
                    (example, index) for example in islice(source, 64) for index in range(len(example.steps))
                ]
                found += writer.candidates(asked, temperature=temperature, distort=True)
                bar.update(len(asked))
        wrong = sum(not judgement.right for judgement in found)
        self._note({"phase": "natural", "steps": len(found), "wrong": wrong})
        partial = path.with_suffix(".partial")
        torch.save(found, partial)
        partial.replace(path)

    # --- files ------------------------------------------------------------------------------------

    def _save(
        self, path: Path, trainee: Trainee, optimizers: Optimizers, done: int, *, over: bool = False
    ) -> None:
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "done": done,
                "over": over,
                "model": trainee.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            },
            partial,
        )
        partial.replace(path)

    def _restore(self, path: Path, trainee: Trainee, optimizers: Optimizers) -> tuple[int, bool]:
        """Goes back to a saved state; returns its steps, and whether the phase is over."""
        if not path.exists():
            return 0, False
        saved: dict[str, Any] = torch.load(path, map_location=self._device, weights_only=True)
        trainee.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return int(saved["done"]), bool(saved["over"])

    def _note(self, figures: dict[str, Any]) -> None:
        with (self._folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(figures) + "\n")


def _optimizers(trainee: Trainee, rate: float) -> Optimizers:
    """Muon for the decoder's matrices, where it learns from fewer steps; AdamW for all else."""
    matrices, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in trainee.named_parameters():
        inner = "language_model.layers" in name and parameter.ndim == 2
        (matrices if inner else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    ]


def _schedule(step: int, steps: int) -> float:
    """Warm-up over the first twentieth, then a cosine down to a twentieth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    part = (step - warm) / max(1, steps - warm)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * part))


def scaled(recipe: Recipe, steps: float) -> Recipe:
    """The same recipe with all phases longer or shorter."""
    names = ("look_steps", "draft_look_steps", "draft_steps", "reason_steps", "judge_steps")
    return replace(recipe, **{name: max(1, round(getattr(recipe, name) * steps)) for name in names})
