"""Prompts.

Text and images of a request turned into token ids and the model's other inputs, each image processed
once.
"""

import base64
import binascii
import hashlib
import io
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .errors import InvalidRequestError
from .kv_cache import Key

HEADS_BYTES = 64 << 20
"""Processed images that are kept at most."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image as it came (decoded from base64) and the hash that stands for its content."""

    data: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of one prompt. `images_start`..`images_end` holds all image tokens and is computed in one go.

    `key` is what prefixes are compared by: the ids, with the images' content in place of their placeholders.
    """

    ids: tuple[int, ...]
    key: Key
    images_start: int
    images_end: int
    features: dict[str, torch.Tensor]

    def usable_prefix(self, common: int) -> int:
        """How much of a stored prefix can be reused.

        All images or none, and at least one token is left to compute.
        """
        usable = min(common, len(self.ids) - 1)
        return self.images_start if self.images_start < usable < self.images_end else usable


def parse_images(encoded: Sequence[bytes], max_images: int, max_bytes: int) -> tuple[EncodedImage, ...]:
    """Take base64 images apart; raises InvalidRequestError naming the limit."""
    if len(encoded) > max_images:
        raise InvalidRequestError(
            f"image: {len(encoded)} images, more than the {max_images} that are allowed"
        )
    images = []
    for index, text in enumerate(encoded):
        if len(text) > max_bytes * 4 // 3 + 4:
            raise InvalidRequestError(
                f"image: image {index} has more than the {max_bytes} bytes that are allowed"
            )
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise InvalidRequestError(f"image: image {index} is not valid base64: {error}") from error
        images.append(EncodedImage(data, hashlib.blake2b(data, digest_size=16).digest()))
    return tuple(images)


def open_image(index: int, image: EncodedImage, max_pixels: int) -> Image.Image:
    """Decode an image to RGB; its size is looked at before its pixels are. Raises InvalidRequestError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image.data)) as opened:
                width, height = opened.size
                if width * height > max_pixels:
                    raise InvalidRequestError(
                        f"image: image {index} has {width}x{height} pixels, "
                        f"more than the {max_pixels} that are allowed"
                    )
                return opened.convert("RGB")
    except InvalidRequestError:
        raise
    except Exception as error:
        raise InvalidRequestError(f"image: image {index} cannot be decoded: {error}") from error


class PromptEncoder:
    """Encodes prompts with a model's tokenizer or processor.

    What stands up to the last image of a prompt (its head) is kept by content, so that the many prompts
    that extend one another process their images once; the rest is tokenised each time, which is cheap.
    """

    def __init__(
        self, tokenizer: Any, processor: Any | None, image_token_id: int | None, max_pixels: int
    ) -> None:
        self._tokenizer = tokenizer
        # Without transformers' wrapping, which costs more than the work; a saved file may ask for padding.
        self._rust: Any | None = getattr(tokenizer, "backend_tokenizer", None)
        if self._rust is not None:
            self._rust.no_padding()
            self._rust.no_truncation()
        self._processor = processor
        self._image_token_id = image_token_id
        self._max_pixels = max_pixels
        self._placeholder: str | None = getattr(processor, "image_token", None)
        # Read by the engine, written by whoever processes images.
        self._lock = threading.Lock()
        self._heads: OrderedDict[bytes, tuple[list[int], dict[str, torch.Tensor]]] = OrderedDict()
        self._heads_bytes = 0
        # Some processors write more around an image than its tokens; then heads cannot be kept apart from
        # the rest.
        self._splittable = self._placeholder is not None

    def encode(self, text: str, images: tuple[EncodedImage, ...]) -> Prompt:
        """Token ids of `text` with `images` at its placeholders; raises InvalidRequestError."""
        if images and (self._processor is None or self._image_token_id is None):
            raise InvalidRequestError("image: this model takes text only")
        placeholders = text.count(self._placeholder) if self._placeholder else 0
        if self._placeholder and placeholders != len(images):
            raise InvalidRequestError(
                f"image: {len(images)} image(s) for {placeholders} placeholder(s) "
                f"{self._placeholder} in text_input"
            )
        if not images:
            ids = self._tokens(text, first=True)
            return Prompt(tuple(ids), np.array(ids, dtype=np.int64), 0, 0, {})
        ids, features = self._with_images(text, images)
        return self._prompt(ids, features, images)

    def is_quick(self, text: str, images: tuple[EncodedImage, ...]) -> bool:
        """Whether `encode` has no image to decode and process, which may take seconds."""
        return not images or self._head(self._name(text, images)[0]) is not None

    def _tokens(self, text: str, *, first: bool) -> list[int]:
        # A chat template may have written the first token of the sequence itself: never twice.
        bos = self._tokenizer.bos_token
        special = first and not (bos and text.startswith(bos))
        if self._rust is not None:
            found: list[int] = self._rust.encode(text, add_special_tokens=special).ids
            return found
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special)
        return ids

    def _with_images(
        self, text: str, images: tuple[EncodedImage, ...]
    ) -> tuple[list[int], dict[str, torch.Tensor]]:
        name, cut = self._name(text, images)
        if head := self._head(name):
            ids, features = head
            return ids + self._tokens(text[cut:], first=False), features
        ids, features = self._process(text, images)
        if self._splittable:
            tail = self._tokens(text[cut:], first=False)
            head_ids = ids[: len(ids) - len(tail)]
            # Holds for placeholders that are tokens of their own; where it does not, every prompt is
            # processed whole.
            self._splittable = head_ids + tail == ids and head_ids[-1:] == [self._image_token_id]
            if self._splittable and all(value.shape[:2] != (1, len(ids)) for value in features.values()):
                self._keep(name, head_ids, features)
        return ids, features

    def _name(self, text: str, images: tuple[EncodedImage, ...]) -> tuple[bytes, int]:
        """What a prompt's head is kept by, and where the head ends in the text."""
        place = text.rfind(self._placeholder) if self._placeholder else -1
        cut = place + len(self._placeholder) if self._placeholder and place >= 0 else 0
        digest = hashlib.blake2b(text[:cut].encode(), digest_size=16)
        for image in images:
            digest.update(image.digest)
        return digest.digest(), cut

    def _head(self, name: bytes) -> tuple[list[int], dict[str, torch.Tensor]] | None:
        with self._lock:
            head = self._heads.get(name) if self._splittable else None
            if head:
                self._heads.move_to_end(name)
            return head

    def _keep(self, name: bytes, ids: list[int], features: dict[str, torch.Tensor]) -> None:
        with self._lock:
            if name not in self._heads:
                self._heads[name] = (ids, features)
                self._heads_bytes += _bytes(features)
            while self._heads_bytes > HEADS_BYTES:
                _, (_, dropped) = self._heads.popitem(last=False)
                self._heads_bytes -= _bytes(dropped)

    def _process(
        self, text: str, images: tuple[EncodedImage, ...]
    ) -> tuple[list[int], dict[str, torch.Tensor]]:
        assert self._processor is not None
        opened = [open_image(index, image, self._max_pixels) for index, image in enumerate(images)]
        bos = self._tokenizer.bos_token
        try:
            made = self._processor(
                text=[text],
                images=[opened],
                return_tensors="pt",
                add_special_tokens=not (bos and text.startswith(bos)),
            )
        except ValueError as error:
            raise InvalidRequestError(f"image: the images do not fit text_input: {error}") from error
        ids = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask", None)
        return ids, {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}

    def _prompt(
        self, ids: list[int], features: dict[str, torch.Tensor], images: tuple[EncodedImage, ...]
    ) -> Prompt:
        key = np.array(ids, dtype=np.int64)
        places = np.flatnonzero(key == self._image_token_id)
        if len(places) == 0:
            raise InvalidRequestError("image: text_input has no placeholder for an image")
        content = hashlib.blake2b(b"".join(image.digest for image in images), digest_size=7).digest()
        key[places] = -1 - int.from_bytes(content)
        return Prompt(tuple(ids), key, int(places[0]), int(places[-1]) + 1, features)


def _bytes(features: dict[str, torch.Tensor]) -> int:
    return sum(value.nbytes for value in features.values())
