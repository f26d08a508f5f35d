"""Files that may change at any time: what counts is the last whole content that was found."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from dreamr.errors import DreamrError

log = structlog.get_logger()

Content = TypeVar("Content")
_Stamp = tuple[tuple[int, int] | None, ...]


class Reread(Generic[Content]):
    """What some files hold, read anew when one of them has changed.

    Args:
        what: how they are called in the log.
        paths: all of them; one that is not there is for `load` to judge.
        load: reads them.

    Raises:
        OSError, DreamrError: as `load` does, the first time; later on what was there before counts.
    """

    def __init__(self, what: str, paths: Iterable[Path], load: Callable[[], Content]) -> None:
        self._what = what
        self._paths = tuple(paths)
        self._load = load
        # Looked at before they are read, so that a change in between is seen the next time.
        self._stamp = self._look()
        self._content = load()

    def current(self) -> Content:
        """What they hold now."""
        self.renewed()
        return self._content

    def renewed(self) -> Content | None:
        """What they hold, if that has changed since the last call."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return None
            self._stamp = stamp
            self._content = self._load()
        except (OSError, DreamrError) as error:
            # Half of a change, perhaps: the other half is a change again.
            log.error("file not read", what=self._what, reason=str(error))
            return None
        log.info("file read", what=self._what)
        return self._content

    def _look(self) -> _Stamp:
        return tuple(map(_stamp, self._paths))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
