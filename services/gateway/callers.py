"""Who calls the gateway, by API key."""

import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc

from dreamr.keys import KeyFile, Limits, digest_of
from services.common.errors import UnauthenticatedError
from services.common.metadata import Metadata
from services.common.reread import Reread


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
        self._known = Reread("keys", [path], lambda: _Known(KeyFile.load(path))) if path else None

    def check(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Refuses a call before its request is read; see `of` for what it raises."""
        self.of(context.invocation_metadata() or ())

    def of(self, metadata: Metadata) -> Caller:
        """Who calls, by the key in `authorization: Bearer KEY`.

        Raises:
            UnauthenticatedError: there is no key, or it is none of ours, or not any more.
        """
        if not self._known:
            return Caller()
        known = self._known.current()
        given = next((value for name, value in metadata if name == "authorization"), None)
        if not isinstance(given, str):
            raise UnauthenticatedError("an API key is needed, as `authorization: Bearer KEY`")
        scheme, _, secret = given.partition(" ")
        parts = secret.split("_", 2)
        key = known.keys.get(parts[1]) if scheme.lower() == "bearer" and len(parts) == 3 else None
        if not key or not hmac.compare_digest(key.digest, digest_of(secret)):
            raise UnauthenticatedError("the API key is not known")
        if (state := key.state(datetime.now(UTC))) != "valid":
            raise UnauthenticatedError(f"the API key {key.id} is {state}")
        return known.callers[key.caller]

    def of_session(self, session_id: str) -> Caller:
        """Whose a session is, as far as they are still known; an unlimited nobody otherwise."""
        callers = self._known.current().callers.values() if self._known else ()
        return next((caller for caller in callers if caller.owns(session_id)), Caller())


class _Known:
    """Keys by their ids, and the callers by their names."""

    def __init__(self, file: KeyFile) -> None:
        self.keys = {key.id: key for key in file.keys}
        names = {key.caller for key in file.keys}
        self.callers = {name: Caller(name, file.callers.get(name, Limits())) for name in names}
