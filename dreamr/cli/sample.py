"""`dreamr sample`"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def sample(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[int, typer.Option(min=1, help="How many questions.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed writes the same questions.")] = 0,
) -> None:
    """Write held-out question images and `questions.jsonl` (image, question, answer)."""
    from training.task import held_out

    out.mkdir(parents=True, exist_ok=True)
    with (out / "questions.jsonl").open("w") as file:
        for number, example in enumerate(held_out(count, seed)):
            name = f"{number:04}.png"
            (out / name).write_bytes(example.png())
            line = {"image": name, "question": example.question, "answer": example.answer}
            file.write(json.dumps(line) + "\n")
    sys.stdout.write(f"{count} questions in {out}\n")
