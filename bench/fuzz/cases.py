"""One bad request by its seed: what is sent, by whom, and how it may end."""

import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from random import Random
from typing import Any

from bench.fuzz import images, wire
from bench.fuzz.requests import METHODS, may_call, path_of, unnamed, valid
from bench.fuzz.values import BYTES, Values, entry, fields_of
from dreamr.tls import ROLES
from dreamr.v1 import common_pb2
from services.common.channel import MAX_MESSAGE_BYTES

LONG_SECONDS = 20.0
"""No request takes that long: one that ends by this deadline has hung."""

NOBODY, STRANGER, PLAIN = "nobody", "stranger", "plaintext"
"""Callers without a certificate, with one of another CA, and without TLS where it is served."""

_PATIENCE_SECONDS = 0.03

# What a call may end with. UNKNOWN is never among it, and INTERNAL only where gRPC itself says so, before any
# handler runs: that is its status for a call that is framed wrongly.
REFUSED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND"})
ANSWERED = REFUSED | {"OK", "CANCELLED"}
TOO_MUCH = frozenset({"RESOURCE_EXHAUSTED"})
LATE = frozenset({"DEADLINE_EXCEEDED"})
GRPC_SAYS = (
    "Error parsing '",
    "Failed parsing HTTP/2",
    "Illegal header key",
    "Metadata keys cannot",
    "Compression bit set",
)
GONE = frozenset({"closed", "reset", "goaway"})
WAITING = frozenset({"open"})


@dataclass(frozen=True, slots=True)
class Call:
    """A call by gRPC's own client.

    Attributes:
        message: what is sent as the request.
        cancel: seconds after which the client leaves; None for never.
    """

    path: str
    message: bytes
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: float = LONG_SECONDS
    cancel: float | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes for a socket.

    Attributes:
        patience: seconds to wait for an end, which need not come.
        connections: how many at once; the first one is watched.
        handshake: whether TLS is spoken where it is served.
    """

    pieces: tuple[bytes, ...]
    patience: float = LONG_SECONDS
    connections: int = 1
    handshake: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and how it may end."""

    seed: int
    kind: str
    service: str
    caller: str
    sent: Call | Raw
    allowed: frozenset[str]


def make(seed: int, *, tls: bool) -> Case:
    """The case of a seed; the same each time."""
    return _Maker(Random(f"{seed} {tls}"), seed, tls=tls).case()


class _Maker:
    """Makes one case; every draw comes from the case's own chance."""

    def __init__(self, chance: Random, seed: int, *, tls: bool) -> None:
        self._chance = chance
        self._seed = seed
        self._tls = tls
        self._service = chance.choices(tuple(METHODS), (4, 2, 2, 2))[0]
        self._method = chance.choice(METHODS[self._service])
        self._path = path_of(self._method)
        self._values = Values(chance, lambda: images.bad(chance))

    def case(self) -> Case:
        """Draws a kind and a caller."""
        chance = self._chance
        kinds = _KINDS | (_TLS_KINDS if self._tls else {})
        kind = chance.choices(tuple(kinds), tuple(kinds.values()))[0]
        sent, allowed = kind(self)
        case = Case(self._seed, kind.__name__.strip("_"), self._service, "", sent, allowed)
        return self._called(case) if self._tls else case

    def _called(self, case: Case) -> Case:
        """By a role that may call, by one that may not, or by who is nobody here."""
        chance = self._chance
        able = may_call(self._service)
        who = chance.random()
        # Health and reflection answer every role.
        if who < 0.7 or isinstance(case.sent, Raw) or case.kind == "method_name":
            return replace(case, caller=chance.choice(sorted(able)))
        if who < 0.9:
            wrong = chance.choice(sorted(set(ROLES) - able))
            return replace(
                case, caller=wrong, allowed=(case.allowed - REFUSED - {"OK"}) | {"PERMISSION_DENIED"}
            )
        stranger = chance.choice((NOBODY, STRANGER, PLAIN))
        allowed = (case.allowed & (LATE | {"CANCELLED"})) | {"UNAVAILABLE"}
        return replace(case, caller=stranger, allowed=allowed)

    def _call(self, message: bytes, **changes: Any) -> Call:
        return Call(**{"path": self._path, "message": message, **changes})

    @cached_property
    def _good(self) -> bytes:
        return valid(self._method, self._chance).SerializeToString()

    def _field(self) -> tuple[Call, frozenset[str]]:
        """A valid request with a field or a few broken."""
        fields = list(fields_of(self._method.input_type))
        count = self._chance.choice((1, 1, 1, 2, 5))
        broken = b"".join(self._values.broken(self._chance.choice(fields)) for _ in range(count))
        return self._call(self._good + broken), ANSWERED

    def _message(self) -> tuple[Call, frozenset[str]]:
        """Every field out of the hat."""
        return self._call(self._values.message(self._method.input_type)), ANSWERED

    def _image(self) -> tuple[Call, frozenset[str]]:
        """Bad images, one or many, in an otherwise valid request."""
        count = self._chance.choice((1, 1, 1, 1, 2, 8, 9, 500))
        found = [common_pb2.Image(data=images.bad(self._chance)) for _ in range(min(count, 9))]
        found *= max(1, count // 9)
        request = valid(self._method, self._chance)
        at = getattr(request, "context", request)
        if not hasattr(at, "images"):
            return self._ids()
        del at.images[:]
        at.images.extend(found)
        return self._call(unnamed(request).SerializeToString()), ANSWERED

    def _ids(self) -> tuple[Call, frozenset[str]]:
        """Sessions that there are not, or that are over; repeats with something else in them."""
        self._service = "gateway"
        self._method = self._chance.choice(METHODS["gateway"])
        self._path = path_of(self._method)
        name = "request_id" if self._method.name == "Reason" else "session_id"
        fields = (self._method.input_type.fields_by_name[name],)
        broken = self._values.broken(fields) if self._chance.random() < 0.6 else b""
        return self._call(valid(self._method, self._chance).SerializeToString() + broken), ANSWERED

    def _bytes(self) -> tuple[Call, frozenset[str]]:
        """No message of the type: random, cut off, or mutated."""
        return self._call(self._mangled(self._good)), ANSWERED

    def _mangled(self, data: bytes) -> bytes:
        chance = self._chance
        way = chance.randrange(5)
        if way == 0:
            return chance.randbytes(chance.choice((1, 2, 10, 100, 5_000)))
        if way == 1:
            return data[: chance.randrange(len(data) + 1)]
        mangled = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 5, 20))):
            at = chance.randrange(len(mangled) or 1)
            if way == 2 and mangled:
                mangled[at] = chance.randrange(256)
            elif way == 3:
                del mangled[at : at + chance.randrange(1, 9)]
            else:
                mangled[at:at] = chance.randbytes(chance.randrange(1, 9))
        return bytes(mangled)

    def _count(self) -> tuple[Raw, frozenset[str]]:
        """No message, or several, where one is meant."""
        body = wire.message(self._good) * self._chance.choice((0, 0, 2, 5))
        sent = wire.opening() + wire.header_frames(wire.call_headers(self._path)) + wire.data_frames(body)
        return Raw((sent,)), ANSWERED

    def _oversize(self) -> tuple[Call, frozenset[str]]:
        """More than a service takes."""
        return self._call(bytes(MAX_MESSAGE_BYTES + 1)), TOO_MUCH

    def _method_name(self) -> tuple[Call, frozenset[str]]:
        """A method or a service that there is not; health and reflection with garbage."""
        chance = self._chance
        service = self._method.containing_service.full_name
        unknown = (
            f"/{service}/Nope",
            f"/{service}/",
            "/nope/nope",
            "/x",
            f"{self._path}/x",
            "/" + "a" * 4_000,
        )
        # Wherever it is, health answers everybody, and reflection does.
        known = (
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        )
        if chance.random() < 0.5:
            return self._call(self._good, path=chance.choice(unknown)), frozenset({"UNIMPLEMENTED"})
        # Watching does not end by itself.
        asked = chance.choice((self._mangled(b"\x0a\x03abc"), entry(1, BYTES, self._values.text())))
        call = self._call(asked, path=chance.choice(known), timeout=0.2)
        return call, ANSWERED | LATE | {"UNIMPLEMENTED"}

    def _metadata(self) -> tuple[Call, frozenset[str]]:
        """Too much of it, or nonsense under names that mean something."""
        chance = self._chance
        size = chance.choice((10, 1_000, 7_000, 20_000, 100_000))
        found: tuple[tuple[str, str | bytes], ...] = chance.choice(
            (
                (("x-big", "y" * size),),
                (("x-bin", chance.randbytes(size)),),
                tuple((f"x-{number}", "y") for number in range(min(size, 3_000))),
                (("authorization", "Bearer " + "é".encode().hex() * 20), ("x-api-key", " " * 50)),
                (("dreamr-session-id", "../.."), ("dreamr-committed-steps", "-1")),
                (("grpc-previous-rpc-attempts", "-1"), ("grpc-tags-bin", chance.randbytes(20))),
                (("traceparent", "00-" + "z" * 60), ("lb-token", "x"), ("grpc-trace-bin", b"\xff" * 30)),
            )
        )
        return self._call(self._mangled(self._good), metadata=found), ANSWERED | TOO_MUCH

    def _deadline(self) -> tuple[Call, frozenset[str]]:
        """No time at all, or a client that leaves at once."""
        chance = self._chance
        if chance.random() < 0.5:
            call = self._call(self._good, timeout=chance.choice((0.0, 0.001, 0.003, 0.01, 0.03)))
        else:
            call = self._call(self._good, cancel=chance.choice((0.0, 0.0, 0.001, 0.005, 0.02)))
        return call, ANSWERED | LATE

    def _framing(self) -> tuple[Raw, frozenset[str]]:
        """A whole call over right HTTP/2, with something of gRPC's that is wrong."""
        chance = self._chance
        data = self._good
        headers = wire.call_headers(self._path)
        name, value = chance.choice(_HEADERS)
        way = chance.randrange(4)
        body = wire.message(data)
        if way == 0:
            kept = [(key, old) for key, old in headers if key != name]
            extra = [] if value is None else [(name, value)]
            # Names that begin with a colon come first.
            headers = [*extra, *kept] if chance.random() < 0.7 else [*kept, *extra]
        elif way == 1:
            length = chance.choice((0, 1, len(data) - 1, len(data) + 1, 2**31, 2**32 - 1))
            body = wire.message(data, length=length)
        elif way == 2:
            body = wire.message(data, compressed=chance.choice((1, 2, 255)))
        else:
            encoding = chance.choice((b"gzip", b"deflate", b"zip", b"identity", b"", b"gzip,gzip", b"\xff"))
            headers.append((b"grpc-encoding", encoding))
            body = wire.message(chance.choice((data, gzip.compress(data, mtime=0))), compressed=1)
        sent = wire.opening() + wire.header_frames(headers) + wire.data_frames(body)
        return Raw((sent,)), ANSWERED | TOO_MUCH | LATE | GONE | {"UNIMPLEMENTED", "INTERNAL"}

    def _bomb(self) -> tuple[Raw, frozenset[str]]:
        """A small message that would unpack to a large one."""
        size = self._chance.choice((1, MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES + 1, 4 * MAX_MESSAGE_BYTES))
        headers = wire.call_headers(self._path, [(b"grpc-encoding", b"gzip")])
        body = wire.message(_zeros(size), compressed=1)
        sent = wire.opening() + wire.header_frames(headers) + wire.data_frames(body)
        return Raw((sent,)), frozenset({"UNIMPLEMENTED", "RESOURCE_EXHAUSTED"})

    def _half(self) -> tuple[Raw, frozenset[str]]:
        """A call that is begun and not ended: the client drops it, or its deadline does."""
        chance = self._chance
        whole = wire.header_frames(wire.call_headers(self._path)) + wire.data_frames(wire.message(self._good))
        begun = wire.opening() + whole[: chance.randrange(len(whole))]
        if chance.random() < 0.7:
            at = chance.randrange(len(begun))
            return Raw((begun[:at], begun[at:]), patience=chance.choice((0.0, 0.001, _PATIENCE_SECONDS))), (
                WAITING | GONE
            )
        headers = wire.call_headers(self._path, [(b"grpc-timeout", b"50m")])
        half = wire.message(self._good, length=len(self._good) + 1)
        sent = wire.opening() + wire.header_frames(headers) + wire.data_frames(half, flags=0)
        return Raw((sent,)), LATE | GONE

    def _frames(self) -> tuple[Raw, frozenset[str]]:
        """HTTP/2 that is broken, or that is right and too much."""
        chance = self._chance
        call = wire.header_frames(wire.call_headers(self._path)) + wire.data_frames(wire.message(self._good))
        way = chance.randrange(4)
        if way == 0:
            sent = wire.opening() + b"".join(self._frame() for _ in range(chance.randrange(1, 30)))
        elif way == 1:
            sent = self._mangled(wire.opening() + call)
        elif way == 2:
            sent = wire.opening() + self._mangled(call)
        else:
            sent = wire.opening() + chance.choice(_FLOODS)(self._path)
        answered = ANSWERED | TOO_MUCH | {"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"}
        return Raw((sent,), patience=_PATIENCE_SECONDS), WAITING | GONE | answered

    def _frame(self) -> bytes:
        chance = self._chance
        kind = chance.choice((*range(10), chance.randrange(256)))
        stream = chance.choice((0, 1, 1, 2, 3, 2**31 - 1, 2**31, 2**32 - 1))
        payload = chance.randbytes(chance.choice((0, 1, 4, 5, 6, 8, 100)))
        made = bytearray(wire.frame(kind, chance.randrange(256), stream, payload))
        if chance.random() < 0.1:
            made[:3] = chance.randbytes(3)
        return bytes(made)

    def _socket(self) -> tuple[Raw, frozenset[str]]:
        """No HTTP/2 at all, or nothing, on one connection or many."""
        chance = self._chance
        sent = chance.choice(
            (
                b"",
                wire.PREFACE[: chance.randrange(1, len(wire.PREFACE))],
                wire.opening(),
                b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"POST /x HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
                b"*1\r\n$4\r\nPING\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500),
                chance.randbytes(chance.choice((1, 9, 100, 20_000))),
            )
        )
        connections = chance.choice((1, 1, 1, 1, 30))
        return Raw((sent,), patience=_PATIENCE_SECONDS, connections=connections), WAITING | GONE

    def _handshake(self) -> tuple[Raw, frozenset[str]]:
        """Other things where a handshake is due."""
        raw, _ = self._chance.choice((_Maker._socket, _Maker._frames, _Maker._half))(self)
        # A server that waits for the rest of a record is right to wait.
        return replace(raw, handshake=False, patience=_PATIENCE_SECONDS), WAITING | GONE


@cache
def _zeros(size: int) -> bytes:
    return gzip.compress(bytes(size), mtime=0)


def _pings(path: str) -> bytes:
    return wire.frame(wire.PING, 0, 0, bytes(8)) * 2_000


def _settings(path: str) -> bytes:
    return wire.frame(wire.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535) * 100) * 100


def _resets(path: str) -> bytes:
    """Calls that are taken back as soon as they are made."""
    return b"".join(
        wire.header_frames(wire.call_headers(path), stream)
        + wire.frame(wire.RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 300, 2)
    )


def _nothings(path: str) -> bytes:
    empty = wire.frame(wire.DATA, 0, 1) * 3_000
    return wire.header_frames(wire.call_headers(path)) + empty


def _continued(path: str) -> bytes:
    """A header block that goes on and on."""
    start = wire.frame(wire.HEADERS, 0, 1, wire.block(wire.call_headers(path)))
    piece = wire.block([(b"x", b"y" * 4_000)])
    return start + wire.frame(wire.CONTINUATION, 0, 1, piece) * 300


def _large(path: str) -> bytes:
    return wire.header_frames(wire.call_headers(path, [(b"x", b"y" * 1_000_000)])) + wire.data_frames(b"")


_FLOODS: Sequence[Callable[[str], bytes]] = (_pings, _settings, _resets, _nothings, _continued, _large)

_HEADERS: Sequence[tuple[bytes, bytes | None]] = (
    *(
        (b"grpc-timeout", value)
        for value in (b"99999999999H", b"99999999H", b"-1S", b"", b"1", b"0n", b"1.5S")
    ),
    *((b"content-type", value) for value in (None, b"", b"text/html", b"application/json")),
    *((b":method", value) for value in (None, b"", b"GET", b"PUT", b"post", b"CONNECT")),
    *((b":path", value) for value in (None, b"", b"*", b"/", b"//", b"/\xff\xfe/x", b"/" + b"a" * 20_000)),
    *((b":scheme", value) for value in (None, b"", b"ftp")),
    *((b":authority", value) for value in (None, b"", b"\xff", b"a" * 5_000)),
    *((b"te", value) for value in (None, b"", b"gzip")),
    *((b"content-length", value) for value in (b"0", b"-1", b"99999999999999999999")),
    *((b"x-bin", value) for value in (b"!!!!", b"a", b"\xff")),
    (b"x", b"\x00\r\n\xff"),
    (b"", b"x"),
    (b"X-UPPER", b"x"),
    (b"\xff\xfe", b"x"),
    (b"connection", b"close"),
    (b"transfer-encoding", b"chunked"),
    (b"grpc-status", b"13"),
    (b"grpc-message", b"%ff%"),
    (b"grpc-accept-encoding", b"\xff,,"),
    (b":status", b"200"),
    (b":nonsense", b"x"),
)

_KINDS: dict[Callable[[_Maker], tuple[Call | Raw, frozenset[str]]], float] = {
    _Maker._field: 30,
    _Maker._message: 10,
    _Maker._image: 8,
    _Maker._ids: 8,
    _Maker._bytes: 12,
    _Maker._count: 2,
    _Maker._oversize: 0.03,
    _Maker._method_name: 5,
    _Maker._metadata: 4,
    _Maker._deadline: 5,
    _Maker._framing: 8,
    _Maker._bomb: 0.3,
    _Maker._half: 3,
    _Maker._frames: 4,
    _Maker._socket: 3,
}
_TLS_KINDS = {_Maker._handshake: 5.0}
