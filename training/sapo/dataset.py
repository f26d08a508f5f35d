"""Questions as the table that TRL's trainer reads."""

from collections.abc import Sequence
from typing import Any

import pyarrow
from datasets import Dataset, Features, Image, List, Value

from training.sapo.questions import Question


def as_table(questions: Sequence[Question], order: Sequence[int]) -> Dataset:
    """Rows in that order: the conversation, its images, and the question's index for the rewards."""
    shown = any(question.images for question in questions)
    features: dict[str, Any] = {
        "prompt": List({"role": Value("string"), "content": Value("string")}),
        "index": Value("int64"),
        **({"images": List(Image())} if shown else {}),
    }
    schema = Features(features)
    columns: dict[str, list[Any]] = {
        "prompt": [[{"role": "user", "content": question.text}] for question in questions],
        "index": list(range(len(questions))),
    }
    if shown:
        columns["images"] = [
            [{"bytes": image, "path": None} for image in question.images] for question in questions
        ]
    # Names instead of fingerprints: dill cannot hash pyarrow's types, and nothing is cached by them here.
    table = Dataset(pyarrow.table(columns, schema=schema.arrow_schema), fingerprint="questions")
    return table.select(order, new_fingerprint="ordered")
