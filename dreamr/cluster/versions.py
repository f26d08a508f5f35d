"""Versions of a model in Triton's repository: folders with a number for a name."""

import json
import shutil
from pathlib import Path


def versions(model: Path) -> list[int]:
    """Numbers of a model's versions in Triton's repository, in order."""
    return sorted(int(folder.name) for folder in model.iterdir() if folder.name.isdecimal())


def new_version(model: Path, weights: Path) -> Path:
    """Adds weights as the next version of a model, with the settings that its last version has.

    It appears whole: Triton must not find half of it. Returns the version's folder.
    """
    last = versions(model)[-1]
    folder = model / str(last + 1)
    partial = model / f"{last + 1}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    settings = json.loads((model / str(last) / "model.json").read_text())
    shutil.copytree(weights, partial / "weights")
    (partial / "model.json").write_text(json.dumps({**settings, "model": "weights"}, indent=2) + "\n")
    partial.replace(folder)
    return folder
