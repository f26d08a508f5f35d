"""The shares of the draft's versions, from a file that may change at any time."""

from functools import partial
from pathlib import Path

from dreamr.versions import VersionFile
from services.common.reread import Reread


class VersionShares:
    """Knows each session's version; what is changed in the file counts from the next call on.

    Args:
        path: see `dreamr.versions`; None leaves the version to Triton.

    Raises:
        VersionFileError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = Reread("versions", [path], partial(VersionFile.load, path)) if path else None

    def of(self, session_id: str) -> int | None:
        """The version that drafts for a session; None for Triton's latest."""
        return self._file.current().of(session_id) if self._file else None

    def stable(self) -> int | None:
        """The version that is on trial nowhere; None for Triton's latest."""
        return self._file.current().stable if self._file else None
