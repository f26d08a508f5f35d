"""Which versions of the draft write for which sessions: a file that draft services read."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreamr.errors import VersionFileError
from dreamr.files import replace
from dreamr.lot import lot

NAME = "versions.json"
"""Beside `config.pbtxt` in the draft's folder of Triton's repository."""
MAX_VERSION = 1_000_000_000


class VersionFile(BaseModel):
    """What the file holds.

    Attributes:
        stable: the version of all sessions that no other has; None leaves it to Triton, which takes the
            latest one that is loaded.
        candidate: a newer version on trial.
        share: of the sessions, those that the candidate drafts for.
        previous: what was stable before, to roll back to.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stable: int | None = Field(None, ge=1)
    candidate: int | None = Field(None, ge=1)
    share: float = Field(0.0, ge=0, le=1)
    previous: int | None = Field(None, ge=1)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the file; one that is not there says nothing.

        Raises:
            VersionFileError: it cannot be read, or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise VersionFileError(f"versions: cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            raise VersionFileError(f"versions: {path}: {first['msg']}") from error

    def save(self, path: Path) -> None:
        """Writes the file in one piece: who reads it finds the old one or the new one."""
        replace(path, self.model_dump_json(indent=2, exclude_none=True).encode() + b"\n")

    @property
    def used(self) -> list[int]:
        """Versions that sessions may have, in order."""
        return sorted({version for version in (self.stable, self.candidate) if version})

    def of(self, session_id: str) -> int | None:
        """A session's version: the same at every draft worker, and while shares grow."""
        if self.candidate and lot(session_id, "draft") < self.share:
            return self.candidate
        return self.stable
