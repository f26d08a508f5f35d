"""Makes a pair of two folders, or leaves nothing behind."""

from dataclasses import dataclass
from pathlib import Path

from dreamr.pair.checks import Finding, check_pair
from dreamr.pair.model_folder import ModelFolder, PairFolderError
from dreamr.pair.new_folder import check_new, staged
from dreamr.pair.writing import REPOSITORY, TEMPLATES, Backend, check_name, write_pair
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
    if copy and backend == "vllm":
        raise PairFolderError(
            "copies are not for vLLM, which takes no path relative to the repository: leave --copy away, and "
            "let 1/model.json name the weights as the machine with the GPUs has them"
        )
    check_new(into)
    models, wrong = {}, []
    for role, path in (("target", target), ("draft", draft)):
        try:
            models[role] = ModelFolder.read(path)
        except PairFolderError as error:
            wrong.append(f"{role}: {error}")
    if wrong:
        raise PairFolderError("\n".join(wrong))
    # Under another name until it is whole: paths within are relative to it, or absolute.
    with staged(into) as folder:
        settings = write_pair(folder, name, models, backend=backend, copy=copy)
        found = [
            # Where it will be, and not where it is for the moment.
            Finding(one.level, one.text.replace(str(folder), str(into)))
            for one in check_pair(Pair.load(settings), folder / REPOSITORY)
        ]
        if wrong := [one.text for one in found if one.level == "error"]:
            text = "\n".join(wrong)
            for role, model in models.items():
                # That will not be there: what was copied from it is.
                text = text.replace(str(into / TEMPLATES / role), str(model.path))
            raise PairFolderError(text)
    return Added(into / settings.name, into / REPOSITORY, found)
