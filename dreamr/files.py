"""Files that others read while they are changed."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes a file whole or not at all: who reads it finds the old one or the new one.

    Owner and mode of a file that is there are kept, as far as the user may: a service may be its reader.

    Args:
        mode: of a new file; nobody else gets to see what is written in the meantime.

    Raises:
        OSError: it cannot be written.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        with suppress(FileNotFoundError, PermissionError):
            before = path.stat()
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            os.fchown(file.fileno(), before.st_uid, before.st_gid)
        file.write(data)
    fresh.replace(path)


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Keeps a second command that changes the file waiting for the block.

    Raises:
        OSError: the lock's file beside it cannot be written.
    """
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
