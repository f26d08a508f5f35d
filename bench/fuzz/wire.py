"""HTTP/2 as bytes, right or wrong, and what comes back.

Made by hand: libraries for HTTP/2 refuse to send most of what is tried here, and a frame is nine bytes and
its payload. Header blocks are literals without Huffman's code, which every peer must take.
"""

import re
import struct
from collections.abc import Iterable, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 0x1, 0x4
FRAME_BYTES = 16_384
"""Of a frame's payload, unless settings allow more."""

_WINDOW = (1 << 31) - 1
_STATUS = re.compile(rb"\x0bgrpc-status[\x01\x02](\d{1,2})")
_MESSAGE = re.compile(rb"\x0cgrpc-message[\x00-\x7f]([\x20-\x7e]*)")
_HTTP_STATUS = re.compile(rb"[\x08\x48\x88]\x03(\d{3})")

Headers = Sequence[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; its length is right."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def block(headers: Headers) -> bytes:
    """A header block of literals that nobody is to index."""
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in headers)


def header_frames(headers: Headers, stream: int = 1, flags: int = 0) -> bytes:
    """A header block as HEADERS, and CONTINUATIONs where it is long."""
    whole = block(headers)
    pieces = [whole[at : at + FRAME_BYTES] for at in range(0, len(whole), FRAME_BYTES)] or [b""]
    last = len(pieces) - 1
    return b"".join(
        frame(
            CONTINUATION if index else HEADERS,
            (END_HEADERS if index == last else 0) | (0 if index else flags),
            stream,
            piece,
        )
        for index, piece in enumerate(pieces)
    )


def data_frames(data: bytes, stream: int = 1, flags: int = END_STREAM) -> bytes:
    """Bytes as DATA frames; the flags are the last one's."""
    pieces = [data[at : at + FRAME_BYTES] for at in range(0, len(data), FRAME_BYTES)] or [b""]
    last = len(pieces) - 1
    return b"".join(frame(DATA, flags if i == last else 0, stream, piece) for i, piece in enumerate(pieces))


def opening() -> bytes:
    """How a client begins; with room for all that may come back."""
    room = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - 65_535))
    return PREFACE + frame(SETTINGS, 0, 0) + room


def message(data: bytes, compressed: int = 0, length: int | None = None) -> bytes:
    """A gRPC message behind its flag and its length."""
    return struct.pack(">BI", compressed & 255, len(data) if length is None else length & 0xFFFFFFFF) + data


def call_headers(path: str, extra: Iterable[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
    """As a client of gRPC sends them."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    ]


def _text(value: bytes) -> bytes:
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    length -= 127
    packed = bytearray([127])
    while length >= 128:
        packed.append(length % 128 + 128)
        length //= 128
    packed.append(length)
    return bytes(packed) + value


class Answer:
    """What a server sends on a new connection, taken apart as it comes.

    Attributes:
        end: how the first stream ended: a number of gRPC's statuses, `http NNN`, `reset` or `goaway`; empty
            while it has not.
        detail: the message with it.
    """

    def __init__(self) -> None:
        self.end = self.detail = ""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Takes what has arrived."""
        self._rest += data
        while len(self._rest) >= 9 and not self.end:
            length = int.from_bytes(self._rest[:3])
            if len(self._rest) < 9 + length:
                return
            kind, flags, payload = self._rest[3], self._rest[4], self._rest[9 : 9 + length]
            self._rest = self._rest[9 + length :]
            if kind == HEADERS:
                # A connection's first block names what it has in full.
                if found := _STATUS.search(payload):
                    self.end = found[1].decode()
                    said = _MESSAGE.search(payload)
                    self.detail = said[1].decode() if said else ""
                elif flags & END_STREAM:
                    http = _HTTP_STATUS.search(payload)
                    self.end = f"http {http[1].decode() if http else '?'}"
            elif kind == RST_STREAM:
                self.end = "reset"
            elif kind == GOAWAY:
                self.end = "goaway"
