"""Checks images before anyone spends time on them. What cannot be decoded, or is too large, is refused."""

import asyncio
import io
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

from services.common.channel import MAX_MESSAGE_BYTES
from services.common.errors import InvalidRequestError
from services.gateway.settings import GatewaySettings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# Pillow only warns of images between its own limit and twice that; what else it warns of, such as a broken
# animation, is no line of our log. Set once, for the process: filters that are changed and restored around
# each call are not safe in threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)

# What Triton's channel takes of them, a third larger in base64.
MAX_IMAGES_BYTES = MAX_MESSAGE_BYTES * 5 // 8


async def check_images(images: Sequence[bytes], settings: GatewaySettings) -> None:
    """Decodes images, each in a thread.

    Raises:
        InvalidRequestError: names the field and the limit.
    """
    if (size := sum(map(len, images))) > MAX_IMAGES_BYTES:
        raise InvalidRequestError.of("images", f"{size:,} bytes in all, more than {MAX_IMAGES_BYTES:,}")
    for index, image in enumerate(images):
        await asyncio.to_thread(
            check_image,
            image,
            f"images[{index}]",
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
        )


def check_image(data: bytes, field: str, *, max_bytes: int, max_pixels: int) -> None:
    """Decodes one image, after its header has shown that it is not too large.

    Blocks for the time of decoding: run it in a thread.

    Raises:
        InvalidRequestError: names the field and the limit.
    """
    if not data:
        raise InvalidRequestError.of(field, "must not be empty")
    if len(data) > max_bytes:
        raise InvalidRequestError.of(field, f"has {len(data):,} bytes, more than {max_bytes:,}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InvalidRequestError.of(
                    field, f"has {width} x {height} pixels, more than {max_pixels:,} in all"
                )
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidRequestError.of(field, f"has more than {max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise InvalidRequestError.of(
            field, f"is no image of a known format ({', '.join(FORMATS)})"
        ) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InvalidRequestError.of(field, f"cannot be decoded: {error}") from error
