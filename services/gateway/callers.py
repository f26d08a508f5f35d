"""Who calls the gateway, by API key."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import structlog

from dreamr.errors import KeyFileError
from dreamr.keys import Key, KeyFile, Limits, digest_of
from services.common.errors import UnauthenticatedError

log = structlog.get_logger()

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Caller:
    """One of those who call; everybody is one and the same where there are no keys."""

    name: str = ""
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def tag(self) -> str:
        """What the ids of this caller's sessions begin with. The id tells whose a session is, for good."""
        return hashlib.blake2b(self.name.encode(), digest_size=8).hexdigest() if self.name else ""

    def owns(self, session_id: str) -> bool:
        """Whether a session is this caller's."""
        return session_id.startswith(self.tag)


class Callers:
    """Knows callers by the keys in a file; what is changed there counts from the next call on.

    Args:
        path: see `dreamr.keys`; None lets everybody call, without a key.

    Raises:
        KeyFileError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, Key] = {}
        self._callers: dict[str, Caller] = {}
        if path:
            self._stamp = _stamp_of(path)
            self._take(KeyFile.load(path))

    def admit(self, method: str, metadata: Metadata) -> None:
        """Refuses a call before its request is read; see `of` for what it raises."""
        self.of(metadata)

    def of(self, metadata: Metadata) -> Caller:
        """Who calls, by the key in `authorization: Bearer KEY`.

        Raises:
            UnauthenticatedError: there is no key, or it is none of ours, or not any more.
        """
        if not self._path:
            return Caller()
        self._refresh(self._path)
        given = next((value for name, value in metadata if name == "authorization"), None)
        if not isinstance(given, str):
            raise UnauthenticatedError("an API key is needed, as `authorization: Bearer KEY`")
        scheme, _, secret = given.partition(" ")
        parts = secret.split("_", 2)
        key = self._keys.get(parts[1]) if scheme.lower() == "bearer" and len(parts) == 3 else None
        if not key or not hmac.compare_digest(key.digest, digest_of(secret)):
            raise UnauthenticatedError("the API key is not known")
        if (state := key.state(datetime.now(UTC))) != "valid":
            raise UnauthenticatedError(f"the API key {key.id} is {state}")
        return self._callers[key.caller]

    def of_session(self, session_id: str) -> Caller:
        """Whose a session is, as far as they are still known; an unlimited nobody otherwise."""
        owners = (caller for caller in self._callers.values() if caller.owns(session_id))
        return next(owners, Caller())

    def _refresh(self, path: Path) -> None:
        try:
            # Looked at before it is read, so that a change in between is seen the next time.
            stamp = _stamp_of(path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._take(KeyFile.load(path))
        except KeyFileError as error:
            # Nobody is let in or locked out by half a file: the last whole one counts.
            log.error("keys not read", reason=str(error))
        else:
            log.info("keys read", valid=len(self._keys))

    def _take(self, found: KeyFile) -> None:
        self._keys = {key.id: key for key in found.keys}
        names = {key.caller for key in found.keys}
        self._callers = {name: Caller(name, found.callers.get(name, Limits())) for name in names}


def _stamp_of(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise KeyFileError(f"keys: cannot read {path}: {error.strerror}") from error
    return status.st_mtime_ns, status.st_ino
