"""Makes a pair of two folders, or leaves nothing behind."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from dreamr.pair.checks import Finding, check_pair
from dreamr.pair.model_folder import ModelFolder, PairFolderError
from dreamr.pair.writing import REPOSITORY, Backend, check_name, write_pair
from services.common.pair import Pair


@dataclass(frozen=True, slots=True)
class Added:
    """A pair that was written: its settings file, the repository beside it, and what to know of it."""

    settings: Path
    repository: Path
    warnings: list[Finding]


def add_pair(
    name: str, *, target: Path, draft: Path, into: Path, backend: Backend = "transformers", copy: bool = False
) -> Added:
    """Writes a pair and checks it; one that cannot be served is taken away again.

    Raises:
        PairFolderError: names all that is wrong, a line for each.
        OSError: a file cannot be written.
    """
    check_name(name)
    if into.exists():
        raise PairFolderError(f"{into}: is there already; remove it, or name another folder (--into)")
    models, wrong = {}, []
    for role, path in (("target", target), ("draft", draft)):
        try:
            models[role] = ModelFolder.read(path)
        except PairFolderError as error:
            wrong.append(f"{role}: {error}")
    if wrong:
        raise PairFolderError("\n".join(wrong))
    # Under another name until it is whole: paths within are relative to it, or absolute.
    staged = into.with_name(f".{into.name}.new")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        settings = write_pair(staged, name, models, backend=backend, copy=copy)
        found = check_pair(Pair.load(settings), staged / REPOSITORY)
        if wrong := [finding.text for finding in found if finding.level == "error"]:
            raise PairFolderError("\n".join(wrong))
        staged.rename(into)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Added(into / settings.name, into / REPOSITORY, found)
