"""Bad values for fields, generated from the descriptors of the protos.

They are written as they go over the wire and not through the message classes, which refuse most of them. A
field that stands in a message twice counts as its last value (a message's as both merged), so a valid message
with bytes behind it is that message with one field broken.

hypothesis would do for values, but it draws its examples within a test, replays a failure from a database and
shrinks what fails by running it again and again; here a case is one number, and nothing has to be kept to
play it again.
"""

import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

VARINT, FIXED64, BYTES, GROUP, FIXED32 = 0, 1, 2, 3, 5

_INTEGERS = (0, 1, 2, 64, 65, 4097, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
_DOUBLES = (0.0, -0.0, 1.0, -1.0, 1.5, 2.1, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    b"",
    b" \t\n",
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xc0\xaf",  # longer than it may be
    b"\xf4\x90\x80\x80",  # behind the last character
    "\u202e\u0000\ufeff\u2028".encode(),
    b"\x1b[2J\r\nlevel=error call failed",
    b"{{ 7 * 7 }}{% for x in range(10**9) %}{% endfor %}",
    b"<|assistant|></think>\n\n<image><eos>",
    b"../../etc/passwd",
    b"%s%n%x",
    b"*",
    b"-1",
)
_MOST_BYTES = 4 << 20
_LENGTHS = (64, 65, 128, 129, 4_001, 70_000, 1_000_000)

Fields = tuple[FieldDescriptor, ...]
"""From a field of the whole message down to the one that is meant."""


def varint(value: int) -> bytes:
    """As protobuf packs it."""
    packed = bytearray()
    while value >= 128:
        packed.append(value % 128 + 128)
        value //= 128
    packed.append(value)
    return bytes(packed)


def entry(number: int, wire_type: int, payload: bytes) -> bytes:
    """One field: its tag and its value, with the length in front of it where that belongs there."""
    length = varint(len(payload)) if wire_type == BYTES else b""
    return varint(number << 3 | wire_type) + length + payload


def fields_of(message: Any) -> Iterator[Fields]:
    """Every field of a descriptor, those of fields included."""
    for field in message.fields:
        yield (field,)
        if field.message_type:
            yield from ((field, *below) for below in fields_of(field.message_type))


class Values:
    """Draws bad values.

    Args:
        blob: what stands in fields of bytes.
    """

    def __init__(self, chance: Random, blob: Callable[[], bytes]) -> None:
        self._chance = chance
        self._blob = blob

    def broken(self, fields: Fields) -> bytes:
        """Bytes to stand behind a valid message; they break the last one of these fields."""
        *outer, field = fields
        found = self._entries(field)
        for parent in reversed(outer):
            found = entry(parent.number, BYTES, found)
        return found

    def message(self, kind: Descriptor, depth: int = 0) -> bytes:
        """Some of the fields, each with a value out of the hat, and now and then one that there is not."""
        found = b"".join(
            self._entries(field, depth) for field in kind.fields if self._chance.random() < 0.6 / (1 + depth)
        )
        return found + self._unknown() if self._chance.random() < 0.1 else found

    def text(self) -> bytes:
        """What may stand where a text is wanted."""
        chance = self._chance
        if chance.random() < 0.7:
            return chance.choice(_TEXTS)
        # The longest ones cost time and tell no more than a few of them do.
        length = chance.choices(_LENGTHS, (8, 8, 8, 8, 4, 2, 1))[0]
        return (chance.choice(("x", "é", "😀", " ", "\n")) * length).encode()

    def _entries(self, field: FieldDescriptor, depth: int = 0) -> bytes:
        chance = self._chance
        if chance.random() < 0.08:
            # The right number with another kind of value.
            return entry(field.number, *self._any())
        many = field.is_repeated and chance.random() < 0.2
        one = entry(field.number, *self._value(field, depth))
        count = chance.choice((2, 3, 9, 1025, 5000)) if many else 1
        return one * max(1, min(count, _MOST_BYTES // len(one)))

    def _value(self, field: FieldDescriptor, depth: int) -> tuple[int, bytes]:
        chance = self._chance
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return FIXED64, struct.pack("<d", chance.choice((*_DOUBLES, chance.uniform(-3, 3))))
        if field.type == FieldDescriptor.TYPE_STRING:
            return BYTES, self.text()
        if field.type == FieldDescriptor.TYPE_BYTES:
            return BYTES, self._blob()
        if field.message_type:
            if depth > 4 or chance.random() < 0.1:
                return BYTES, chance.choice((b"", b"\xff", chance.randbytes(chance.randrange(1, 40))))
            return BYTES, self.message(field.message_type, depth + 1)
        if chance.random() < 0.05:
            return VARINT, b"\xff" * chance.choice((9, 10, 11, 20)) + b"\x01"  # it does not end in time
        return VARINT, varint(chance.choice((*_INTEGERS, chance.getrandbits(chance.randrange(1, 65)))))

    def _unknown(self) -> bytes:
        number = self._chance.choice((15, 99, 1000, 19_000, 2**29 - 1))
        return entry(number, *self._any())

    def _any(self) -> tuple[int, bytes]:
        chance = self._chance
        wire_type = chance.choice((VARINT, FIXED64, BYTES, GROUP, 4, FIXED32, 6, 7))
        if wire_type == BYTES:
            return wire_type, chance.randbytes(chance.randrange(60))
        if wire_type == GROUP:
            return wire_type, b"\x0b" * chance.choice((1, 50, 5_000))  # groups in groups that do not end
        sizes = {VARINT: 1, FIXED64: 8, FIXED32: 4}
        return wire_type, bytes([chance.randrange(128)]) * sizes.get(wire_type, 0)
