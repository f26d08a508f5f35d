"""Images that are none, too large, cut off or bombs are refused, by name and limit."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from services.common.errors import InvalidRequestError
from services.gateway.images import check_image, check_images
from services.gateway.settings import GatewaySettings

LIMITS = {"max_bytes": 1_000_000, "max_pixels": 1_000_000}


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG whose header promises side x side pixels; nobody should look further."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_good_image_passes() -> None:
    check_image(png(48, 48), "images[0]", **LIMITS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must not be empty"),
        (b"no image at all", "no image of a known format"),
        (png(48, 48)[:60], "cannot be decoded"),
        (bomb(1_500), "more than 1,000,000"),
        (bomb(30_000), "more than 1,000,000"),
        (b"x" * 1_000_001, "more than 1,000,000"),
    ],
)
def test_a_bad_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"images\[0\]: .*") as refused:
        check_image(data, "images[0]", **LIMITS)
    assert message in str(refused.value)


def test_checks_in_threads_leave_the_process_as_it_was() -> None:
    data, before = png(200, 200), list(warnings.filters)
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(check_image, data, "images[0]", **LIMITS) for _ in range(300)]:
            done.result()
    assert list(warnings.filters) == before


def test_what_pillow_warns_of_is_no_line_of_a_log() -> None:
    """An animation of no frames, in a process whose warnings are as they are in a service."""
    chunk = b"acTL" + bytes(8)
    broken = (
        png(8, 8)[:33] + struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png(8, 8)[33:]
    )
    with pytest.warns(UserWarning, match="Invalid APNG"), Image.open(io.BytesIO(broken)):
        pass
    program = (
        "import sys; from services.gateway.images import check_image; "
        "check_image(sys.stdin.buffer.read(), 'image', max_bytes=10_000, max_pixels=10_000)"
    )
    ended = subprocess.run([sys.executable, "-c", program], input=broken, capture_output=True, check=True)
    assert ended.stderr == b""


async def test_images_that_are_too_much_together_are_refused() -> None:
    # Each is within its own limit; base64 would make them too much for Triton.
    with pytest.raises(InvalidRequestError, match="images: 52,000,000 bytes in all, more than"):
        await check_images([bytes(13_000_000)] * 4, GatewaySettings())
