"""Files that are no images, or none that should be decoded."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
_REFUSED = ("TIFF", "PPM", "PCX", "TGA", "ICO", "EPS", "PDF", "SGI")
_SIDES = (0, 1, 65_535, 100_000, 2**31 - 1, 2**31, 2**32 - 1)


@cache
def good(format_: str = "PNG", side: int = 24) -> bytes:
    """A small image."""
    written = io.BytesIO()
    image = Image.radial_gradient("L").resize((side, side)).convert("RGB")
    image.save(written, format=format_)
    return written.getvalue()


def bad(chance: Random) -> bytes:
    """One of the kinds below."""
    return chance.choices(tuple(_KINDS), tuple(_KINDS.values()))[0](chance)


def _nothing(chance: Random) -> bytes:
    return b""


def _noise(chance: Random) -> bytes:
    magic = chance.choice((b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF....WEBPVP8 "))
    return magic + chance.randbytes(chance.randrange(200))


def _truncated(chance: Random) -> bytes:
    whole = good(chance.choice(FORMATS))
    return whole[: chance.randrange(1, len(whole))]


def _mutated(chance: Random) -> bytes:
    whole = bytearray(good(chance.choice(FORMATS)))
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    return bytes(whole)


def _refused(chance: Random) -> bytes:
    return good(chance.choice(_REFUSED))


def _sized(chance: Random) -> bytes:
    """A PNG whose header says a size and that holds next to nothing."""
    width, height = chance.choice(_SIDES), chance.choice(_SIDES)
    depth, colour = chance.choice(((1, 0), (8, 2), (16, 6), (3, 9)))
    return _png(struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0), zlib.compress(b"\0" * 100))


def _bomb(chance: Random) -> bytes:
    return _packed(chance.choice((4_001, 12_000, 30_000)))


@cache
def _packed(side: int) -> bytes:
    """A square of one colour: a thousand times smaller than its pixels."""
    rows = zlib.compress(b"\0" * ((side // 8 + 2) * side), 9)
    return _png(struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), rows)


@cache
def _text_of(mebibytes: int) -> bytes:
    text = b"k\0\0" + zlib.compress(b"\0" * (mebibytes << 20), 9)
    return _png(struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0), zlib.compress(b"\0" * 72), (b"zTXt", text))


def _text(chance: Random) -> bytes:
    """A small image with a text that unpacks to megabytes."""
    return _text_of(chance.choice((2, 70)))


def _lying(chance: Random) -> bytes:
    """Chunks that are longer, shorter or more than they say."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 72)
    kind = chance.choice((b"iTXt", b"iCCP", b"PLTE", b"tRNS", b"fdAT", b"acTL", b"eXIf", b"IHDR", b"IDAT"))
    return _png(header, pixels, (kind, chance.randbytes(chance.randrange(64))))


def _png(header: bytes, pixels: bytes, *between: tuple[bytes, bytes]) -> bytes:
    chunks = ((b"IHDR", header), *between, (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


_KINDS: dict[Callable[[Random], bytes], int] = {
    _nothing: 1,
    _noise: 4,
    _truncated: 5,
    _mutated: 12,
    _refused: 2,
    _sized: 4,
    _bomb: 1,
    _text: 1,
    _lying: 5,
}
