"""`python -m training`: trains the pair, measures it and puts it into Triton's model repository.

`python -m training evaluate` measures a pair that is there, and writes the model cards.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from services.common.prompts import Prompts
from training.card import card
from training.data import REASONING
from training.evaluate import Figures, as_json, evaluate
from training.images import Images
from training.latency import measure
from training.train import Recipe, Run, scaled
from training.writing import Writer

MODELS = Path(__file__).resolve().parents[1] / "models" / "repository"
RUNS = Path(__file__).resolve().parent / "runs"
NAMES = ("draft", "target")


def _writer(folder: Path) -> Writer:
    """A saved model, in float32 as the backend serves it on a CPU."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    device = torch.device("cpu")
    return Writer(model, tokenizer, Prompts(folder, REASONING), Images(device), device)


def _evaluate(folders: dict[str, Path], questions: int, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Measures the pair, and writes `figures.json` and a model card beside each model of these names."""
    torch.set_num_threads(1)
    writers = {name: _writer(folder) for name, folder in folders.items()}
    figures: Figures = evaluate(writers["draft"], writers["target"], count=questions, seed=5)
    found: dict[str, Any] = {**as_json(figures), "milliseconds": measure(folders)}
    for name in names:
        folder = folders[name]
        training = json.loads((folder / "training.json").read_text())
        (folder / "README.md").write_text(card(name, found, training))
        (folder / "figures.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("train", "evaluate"), default="train")
    parser.add_argument("--run", type=Path, default=RUNS / "bundled", help="checkpoints; reused if there")
    parser.add_argument("--out", type=Path, default=MODELS, help="Triton's model repository")
    parser.add_argument("--questions", type=int, default=500, help="held-out questions to measure with")
    parser.add_argument(
        "--draft-version", type=int, default=1, help="to evaluate; the target's card is of the first one"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="longer or shorter phases")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="a third faster; needs a C++ compiler")
    options = parser.parse_args(arguments)
    folders = {name: options.out / name / "1" / "weights" for name in NAMES}
    if options.what == "train":
        recipe = scaled(Recipe(compiled=options.compile), options.scale)
        run = Run(options.run, recipe, torch.device(options.device))
        run.draft()
        run.target()
        for name, folder in folders.items():
            shutil.copytree(options.run / name, folder, dirs_exist_ok=True)
    names: Sequence[str] = NAMES
    if options.what == "evaluate" and options.draft_version != 1:
        folders["draft"] = options.out / "draft" / str(options.draft_version) / "weights"
        names = ("draft",)
    print(json.dumps(_evaluate(folders, options.questions, names), indent=2))  # noqa: T201 - the command's result


if __name__ == "__main__":
    main()
