"""API keys of gateways: a file that knows them by their hashes only.

The file is JSON: the callers with their limits, and the keys, each of one caller. Gateways read it anew when
it has changed, so a key is rotated by adding a second one to its caller, and revoking the first.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from dreamr.errors import KeyFileError
from dreamr.files import only_one, replace

PREFIX = "dreamr"
"""What every key begins with, so that scanners for leaked secrets find it."""

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Limits(BaseModel):
    """What one caller may use of each gateway; None for no limit.

    Attributes:
        max_sessions: that run at once.
        tokens_per_minute: of committed steps and answers, in the long run; a minute's worth at once.
        max_left_bytes: that the store keeps of sessions which clients have left unfinished; beyond it those
            left first are cancelled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_sessions: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    max_left_bytes: int | None = Field(default=None, ge=0)


class Key(BaseModel):
    """One key, without its secret.

    Attributes:
        id: stands in the key itself.
        caller: whose it is.
        digest: SHA-256 of the whole key, in hex. A key is 256 random bits: there is nothing to guess that a
            slow hash would have to make dear.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[0-9a-f]{8}$")
    caller: str = Field(pattern=_NAME)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> str:
        """`valid`, `expired` or `revoked`."""
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= now else "valid"


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid")

    callers: dict[str, Limits] = {}
    keys: list[Key] = []

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads the file.

        Raises:
            KeyFileError: it cannot be read, or holds something else.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise KeyFileError(f"keys: cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise KeyFileError(f"keys: {path}: {f'{place}: ' if place else ''}{first['msg']}") from error

    @classmethod
    @contextmanager
    def changed(cls, path: Path) -> Iterator[Self]:
        """The file's content, or an empty one; what the block makes of it is written behind it.

        Raises:
            KeyFileError: see `load`.
            OSError: it cannot be written.
        """
        # Two commands at once must not undo each other's work.
        with only_one(path):
            found = cls.load(path) if path.exists() else cls()
            yield found
            replace(path, found.model_dump_json(indent=2, exclude_none=True).encode() + b"\n", 0o600)

    def add(self, caller: str, days: int | None = None) -> str:
        """A new key of a caller; the only time that it can be seen."""
        now, key_id = datetime.now(UTC), secrets.token_hex(4)
        secret = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
        expires = now + timedelta(days=days) if days else None
        self.keys.append(
            Key(id=key_id, caller=caller, digest=digest_of(secret), created=now, expires=expires)
        )
        self.callers.setdefault(caller, Limits())
        return secret

    def revoke(self, name: str) -> list[str]:
        """Revokes a key by its id, or all of a caller's; the ids of those that were not before."""
        now, found = datetime.now(UTC), []
        for at, key in enumerate(self.keys):
            if name in (key.id, key.caller) and not key.revoked:
                self.keys[at] = key.model_copy(update={"revoked": now})
                found.append(key.id)
        return found


def digest_of(secret: str) -> str:
    """What the file holds in place of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()
