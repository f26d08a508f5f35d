"""The shares of the draft's versions, from a file that may change at any time."""

from pathlib import Path

import structlog

from dreamr.errors import VersionFileError
from dreamr.versions import VersionFile

log = structlog.get_logger()


class VersionShares:
    """Knows each session's version; what is changed in the file counts from the next call on.

    Args:
        path: see `dreamr.versions`; None leaves the version to Triton.

    Raises:
        VersionFileError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._file = VersionFile()
        if path:
            self._stamp = _stamp_of(path)
            self._file = VersionFile.load(path)

    def of(self, session_id: str) -> int | None:
        """The version that drafts for a session; None for Triton's latest."""
        return self._current().of(session_id)

    def stable(self) -> int | None:
        """The version that is on trial nowhere; None for Triton's latest."""
        return self._current().stable

    def _current(self) -> VersionFile:
        if self._path:
            self._refresh(self._path)
        return self._file

    def _refresh(self, path: Path) -> None:
        try:
            # Looked at before it is read, so that a change in between is seen the next time.
            stamp = _stamp_of(path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._file = VersionFile.load(path)
        except VersionFileError as error:
            # The last whole file counts.
            log.error("versions not read", reason=str(error))
        else:
            log.info("versions read", **self._file.model_dump(exclude_none=True))


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise VersionFileError(f"versions: cannot read {path}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_ino
