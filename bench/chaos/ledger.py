"""Who wrote what into a session, from Redis' own log of commands, and what never should have been.

MONITOR tells every command in the order in which Redis carries them out: who sent it, and what its script
did. So the judge takes nothing from what gateways think of themselves: it counts fences and steps anew.
"""

import ast
import asyncio
import hashlib
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis

from services.gateway import redis_scripts

_LINE = re.compile(r"^\+[\d.]+ \[\d+ (\S+)\] (.*)$", re.DOTALL)
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')
_KEY = re.compile(rb"^dreamr:\{(.*)\}:(?:session|steps)$")
_LINE_BYTES = 1 << 26
_SCRIPTS = {
    hashlib.sha1(getattr(redis_scripts, name).encode()).hexdigest(): name  # noqa: S324 - so Redis names them
    for name in ("APPEND", "END", "CREATE", "RENEW", "TAKE_OVER", "CANCEL", "LOAD")
}


@dataclass(slots=True)
class _Session:
    """What the log says of one session: its newest fence, whose that is, the steps so far, and its end."""

    fence: int = 0
    owner: str = ""
    steps: list[bytes] = field(default_factory=list)
    end: tuple[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class _Call:
    """A script that runs: which, who sent it, and its arguments behind the keys."""

    script: str
    sender: str
    arguments: Sequence[bytes]


class Ledger:
    """Hears the log.

    Attributes:
        wrong: what must not be, in words.
        takeovers: by session, how often it went to another owner.
        refused: by script, what came under a fence that was not the newest any more.
    """

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.takeovers: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._sessions: dict[str, _Session] = {}
        self._names: dict[str, str] = {}
        self._call: _Call | None = None

    @asynccontextmanager
    async def listening(self, address: str) -> AsyncIterator[None]:
        """Hears all that this Redis does during the block."""
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=_LINE_BYTES)
        writer.write(b"MONITOR\r\n")
        await reader.readline()
        # Of connections that were there before, nobody hears the names.
        async with Redis(host=host, port=int(port), socket_timeout=10) as redis:
            for client in await redis.client_list():
                if client["name"]:
                    self._names.setdefault(client["addr"], client["name"])
        last = uuid.uuid4().hex

        async def listen() -> None:
            async for line in reader:
                if last in (text := line.decode("ascii").rstrip()):
                    return
                self.hear(text)
            self.wrong.append("the log broke off")

        listens = asyncio.create_task(listen())
        try:
            yield
            _, other = await asyncio.open_connection(host, int(port))
            other.write(f"ECHO {last}\r\n".encode())
            await listens
            other.close()
        finally:
            listens.cancel()
            await asyncio.wait([listens])
            writer.close()

    def hear(self, line: str) -> None:
        """The next line, as MONITOR tells it."""
        if not (parts := _LINE.match(line)):
            return
        sender = parts[1]
        name, *words = [ast.literal_eval(f'b"{word}"') for word in _WORD.findall(parts[2])]
        if sender == "lua":
            self._effect(name.upper(), words)
            return
        self._call = None
        sender = self._names.get(sender, sender)
        if name.upper() == b"CLIENT" and words[0].upper() == b"SETNAME":
            self._names[parts[1]] = words[1].decode()
        elif name.upper() == b"EVALSHA" and (script := _SCRIPTS.get(words[0].decode())):
            self._call = _Call(script, sender, words[2 + int(words[1]) :])
            if script in ("APPEND", "RENEW", "END"):
                self.refused[script.lower()] += int(self._call.arguments[0]) < self._of(words[2]).fence
        elif any(map(_KEY.match, words)):
            self.wrong.append(f"{sender} sent {name.decode()} to a session, past its scripts")

    def steps(self, session_id: str) -> list[bytes]:
        """All that was appended to a session, in order."""
        return self._sessions[session_id].steps if session_id in self._sessions else []

    def end(self, session_id: str) -> tuple[str, bytes] | None:
        """Status and outcome of a session that has ended."""
        return self._sessions[session_id].end if session_id in self._sessions else None

    def _of(self, key: bytes) -> _Session:
        match = _KEY.match(key)
        return self._sessions.setdefault(match[1].decode(), _Session()) if match else _Session()

    def _effect(self, name: bytes, words: Sequence[bytes]) -> None:
        """What a script did."""
        if not words or not (key := _KEY.match(words[0])):
            return
        session_id, session, call = key[1].decode(), self._of(words[0]), self._call
        if name == b"RPUSH":
            self._append(session_id, session, call, words[1:])
        elif name == b"HINCRBY" and call and call.script == "TAKE_OVER":
            if words[1] != b"fence":
                return
            session.fence += 1
            self.takeovers[session_id] += session.owner != call.sender
            session.owner = call.sender
        elif name == b"HSET" and call and call.script == "CREATE":
            self.wrong += [f"{session_id}: begun twice"] if session.fence else []
            fields = dict(zip(words[1::2], words[2::2], strict=True))
            session.fence, session.owner = int(fields[b"fence"]), call.sender
        elif name == b"HSET" and call and call.script in ("RENEW", "END"):
            if call.sender != session.owner or int(call.arguments[0]) != session.fence:
                self.wrong.append(f"{session_id}: {call.script} by {call.sender} beside {session.owner}")
            if call.script == "END":
                self.wrong += [f"{session_id}: ended twice"] if session.end else []
                fields = dict(zip(words[1::2], words[2::2], strict=True))
                session.end = fields[b"status"].decode(), fields[b"outcome"]
        elif name in (b"HSET", b"HINCRBY", b"DEL", b"LSET", b"LPUSH", b"LTRIM") and (
            not call or call.script not in ("TAKE_OVER", "CANCEL", "END")
        ):
            self.wrong.append(f"{session_id}: {name.decode()} by no script that may")

    def _append(self, session_id: str, session: _Session, call: _Call | None, steps: Sequence[bytes]) -> None:
        place = f"{session_id}: step {len(session.steps)}"
        if not call or call.script != "APPEND" or len(steps) != 1:
            self.wrong.append(f"{place} by no append")
        else:
            fence, index = int(call.arguments[0]), int(call.arguments[1])
            if fence != session.fence:
                self.wrong.append(f"{place} under fence {fence}, and the newest is {session.fence}")
            if call.sender != session.owner:
                self.wrong.append(f"{place} by {call.sender}, and {session.owner} holds it")
            if index != len(session.steps):
                self.wrong.append(f"{place} as step {index}")
        session.steps += steps
