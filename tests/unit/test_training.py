"""A training run of a few steps: it can be stopped, goes on, and leaves folders that load anywhere."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.judging import READING, corrupted_step, reckoned
from training.task import examples, held_out
from training.train import Recipe, Run


def test_a_tiny_run_resumes_and_its_models_load(tmp_path: Path) -> None:
    device = torch.device("cpu")
    Run(tmp_path, Recipe.tiny(), device).draft()
    before = (tmp_path / "draft" / "model.safetensors").read_bytes()
    run = Run(tmp_path, Recipe.tiny(), device)
    run.draft()
    run.target()
    assert (tmp_path / "draft" / "model.safetensors").read_bytes() == before
    phases = [json.loads(line)["phase"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert phases == [
        *("draft-look", "draft-reason", "natural"),
        *("target-look", "target-reason", "target-judge"),
    ]
    example = next(held_out(1, seed=1))
    for name in ("draft", "target"):
        processor = AutoProcessor.from_pretrained(tmp_path / name)
        model = AutoModelForImageTextToText.from_pretrained(tmp_path / name, dtype=torch.float32)
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.question}]}],
            add_generation_prompt=True,
        )
        inputs = processor(text=prompt, images=[example.image], return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        assert written.shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.parametrize("folder", sorted(Path("models/repository").glob("*/*/weights")), ids=str)
def test_the_bundled_weights_have_a_card(folder: Path) -> None:
    name = folder.parts[-3]
    card = (folder / "README.md").read_text()
    figures = json.loads((folder / "figures.json").read_text())
    assert f"{figures['answers'][name]:.1%}" in card


def test_a_misread_step_reckons_on_from_the_wrong_digit() -> None:
    chance = random.Random(4)
    example = next(examples(chance, held_out=False))
    for index, text in enumerate(example.steps):
        if found := READING.fullmatch(text):
            head, read, *rest = found.groups()
            assert reckoned(text, head, [int(digit) for digit in read.split()], rest) == text, index
    wrong = [corrupted_step(chance, example) for _ in range(200)]
    assert not any(judgement.right for judgement in wrong)
    misread = [READING.fullmatch(judgement.text) for judgement in wrong]
    assert sum(found is not None for found in misread) > 100
