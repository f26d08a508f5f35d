"""`dreamr sample`"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Split(StrEnum):
    """What the questions are for."""

    HELD_OUT = "held-out"
    CALIBRATION = "calibration"


def sample(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(min=1, help="How many questions.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed writes the same questions.")] = 0,
    split: Annotated[
        Split, typer.Option(help="Questions to measure by, or others to calibrate by.")
    ] = Split.HELD_OUT,
) -> None:
    """Write held-out question images and `questions.jsonl` (image, question, answer, steps)."""
    from training import task

    out.mkdir(parents=True, exist_ok=True)
    source = task.calibration if split is Split.CALIBRATION else task.held_out
    with (out / "questions.jsonl").open("w") as file:
        for number, example in enumerate(source(count, seed)):
            name = f"{number:04}.png"
            (out / name).write_bytes(example.png())
            line = {
                "image": name,
                "question": example.question,
                "answer": example.answer,
                "steps": example.steps,
            }
            file.write(json.dumps(line) + "\n")
    sys.stdout.write(f"{count} questions in {out}\n")
