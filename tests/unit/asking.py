"""What OpenAI clients ask in the tests."""

import base64
import io
from typing import Any

from PIL import Image


def data_uri(shade: int = 0) -> str:
    """A small image, as a request has it."""
    buffer = io.BytesIO()
    Image.new("L", (48, 48), shade).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def question(text: str = "what ?", *urls: str) -> list[Any]:
    """One message of the user's; with an image where none is named."""
    parts = [image_part(url) for url in urls or (data_uri(),)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
