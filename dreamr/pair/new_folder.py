"""A folder that is there whole, or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamr.pair.model_folder import PairFolderError


def check_new(folder: Path) -> None:
    """Raises PairFolderError unless the folder can be made."""
    if folder.exists() or folder.is_symlink():
        raise PairFolderError(f"{folder}: is there already; remove it, or name another folder")
    if not folder.parent.is_dir():
        raise PairFolderError(f"{folder.parent}: is no folder; make it first")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Where to make the folder, beside it and hidden: it gets its name behind the block."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as hidden:
        making = Path(hidden) / folder.name
        yield making
        making.rename(folder)
