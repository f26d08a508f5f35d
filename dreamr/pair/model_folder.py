"""A Hugging Face folder as far as a pair needs to know it; what is missing is told at once."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CONFIG, TOKENIZER_CONFIG, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
# How a file begins that Git LFS has not fetched.
_POINTER = b"version https://git-lfs"


class PairFolderError(ValueError):
    """A folder or a pair cannot be used; the message says what is wrong and what to do, a line for each."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model with its tokenizer, as `save_pretrained` or a download leaves them.

    Attributes:
        model_type: as `config.json` has it.
        context: the longest sequence in tokens, where the model says so.
        takes_images: whether it is a model for images and text.
        generates: whether transformers has a class for it that writes text.
        needs_code: it is a model by code of its own, which no backend runs unasked.
        template: its chat template.
    """

    path: Path
    config: dict[str, Any]
    model_type: str
    context: int | None
    takes_images: bool
    generates: bool
    needs_code: bool
    template: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what there is to know without loading the model.

        Raises:
            PairFolderError: a file is missing or cannot be read.
        """
        path = path.resolve()
        if not path.is_dir():
            raise PairFolderError(f"{path}: is no folder; give one that holds {CONFIG} and the weights")
        config = _json(path / CONFIG)
        model_type = config.get("model_type")
        if not isinstance(model_type, str):
            raise PairFolderError(f"{path / CONFIG}: has no model_type; is this a model's folder?")
        _check_weights(path)
        if not any((path / name).is_file() for name in TOKENIZERS):
            raise PairFolderError(f"{path}: has no tokenizer; download {TOKENIZERS[0]} too")
        template = _template(path)
        images, generates = _classes(model_type)
        takes_images = images or "vision_config" in config
        if takes_images and not any((path / name).is_file() for name in PROCESSORS):
            raise PairFolderError(
                f"{path}: takes images but has no image processor; download {' or '.join(PROCESSORS)} too"
            )
        text = config.get("text_config")
        context = (text if isinstance(text, dict) else config).get("max_position_embeddings")
        return cls(
            path,
            config,
            model_type,
            context if isinstance(context, int) else None,
            takes_images,
            generates or images,
            "auto_map" in config,
            template,
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PairFolderError(f"{path.parent}: has no {path.name}; download it too") from None
    except (OSError, ValueError) as error:
        raise PairFolderError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise PairFolderError(f"{path}: must be a JSON object")
    return found


def _check_weights(path: Path) -> None:
    """All files of the weights are there, and are weights."""
    files = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
    for index in (path / f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin")):
        if index.is_file():
            files += [path / str(name) for name in sorted(set(_json(index).get("weight_map", {}).values()))]
    if not files:
        converted = "; convert the GGUF file first" if any(path.glob("*.gguf")) else ""
        raise PairFolderError(f"{path}: has no weights (*.safetensors){converted}")
    for file in files:
        if not file.is_file():
            raise PairFolderError(f"{path}: has no {file.name}, which the index names; download it too")
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise PairFolderError(f"{file}: is a pointer of Git LFS; fetch the weights by `git lfs pull`")


def _template(path: Path) -> str:
    """The chat template, wherever the folder has it."""
    for name, read in (
        (TEMPLATE, Path.read_text),
        ("chat_template.json", _in_json),
        (TOKENIZER_CONFIG, _in_json),
    ):
        file = path / name
        if file.is_file() and (found := read(file)):
            return found
    raise PairFolderError(
        f"{path}: has no chat template ({TEMPLATE}, or within {TOKENIZER_CONFIG}): a base model? "
        "Take the one that was tuned for conversations"
    )


def _in_json(path: Path) -> str:
    found = _json(path).get("chat_template") or ""
    if isinstance(found, list):
        # The older form: several templates by name.
        found = {entry["name"]: entry["template"] for entry in found}.get("default", "")
    return str(found)


def _classes(model_type: str) -> tuple[bool, bool]:
    """Whether transformers knows it as a model for images and text, and as one for text."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    return (
        model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )
