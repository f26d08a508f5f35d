"""A Hugging Face folder as far as a pair needs to know it; what is missing is told at once."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CONFIG, TOKENIZER_CONFIG, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
# What a folder without config.json may be instead, by a name in it.
_INSTEAD = {
    "*.gguf": "holds a GGUF file; make a folder of it by `dreamr pair convert`",
    "adapter_config.json": "is an adapter; merge it into its model, and save that",
    "snapshots/*/config.json": "is a cache of the hub; give the folder within its snapshots",
}
# How a file begins that Git LFS has not fetched.
_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"-\d+-of-\d+\.")


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
        if path.suffix == ".gguf" and path.is_file():
            raise PairFolderError(f"{path}: {_INSTEAD['*.gguf'].replace('holds', 'is')}")
        if not path.is_dir():
            raise PairFolderError(f"{path}: is no folder; give one that holds {CONFIG} and the weights")
        if not (path / CONFIG).is_file():
            for name, told in _INSTEAD.items():
                if any(path.glob(name)):
                    raise PairFolderError(f"{path}: {told}")
        config = read_json(path / CONFIG)
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
        return cls(
            path,
            config,
            model_type,
            _known_context(path) if generates or images else _context(config),
            takes_images,
            generates or images,
            "auto_map" in config,
            template,
        )


def read_json(path: Path) -> dict[str, Any]:
    """Raises PairFolderError unless the file holds a JSON object."""
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
    indices = [path / f"{name}.index.json" for name in ("model.safetensors", "pytorch_model.bin")]
    found = [index for index in indices if index.is_file()]
    for index in found:
        named = read_json(index).get("weight_map")
        if not isinstance(named, dict):
            raise PairFolderError(f"{index}: has no weight_map; download it again")
        files += [path / str(name) for name in sorted(set(named.values()))]
    if not files:
        converted = f"; {_INSTEAD['*.gguf']}" if any(path.glob("*.gguf")) else ""
        raise PairFolderError(f"{path}: has no weights (*.safetensors){converted}")
    if not found and any(_SHARD.search(file.name) for file in files):
        raise PairFolderError(f"{path}: has shards, but not their {indices[0].name}; download it too")
    for file in dict.fromkeys(files):
        if not file.is_file():
            raise PairFolderError(f"{path}: has no {file.name}, which the index names; download it too")
        _check_whole(file)


def _check_whole(file: Path) -> None:
    """By the header alone: a download that was broken off is not seen by its name."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise PairFolderError(f"{file}: is a pointer of Git LFS; fetch the weights by `git lfs pull`")
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy"):
                pass
    except OSError as error:
        raise PairFolderError(f"{file}: cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise PairFolderError(f"{file}: is broken or cut off ({error}); download it again") from error


def _template(path: Path) -> str:
    """The chat template, wherever the folder has it."""
    for name, read in (
        (TEMPLATE, _text),
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


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise PairFolderError(f"{path}: cannot be read as text: {error}") from error


def _in_json(path: Path) -> str:
    found = read_json(path).get("chat_template") or ""
    if isinstance(found, list):
        # The older form: several templates by name.
        try:
            found = {entry["name"]: entry["template"] for entry in found}.get("default", "")
        except (KeyError, TypeError) as error:
            raise PairFolderError(f"{path}: chat_template has no name and template in an entry") from error
    return str(found)


def _known_context(path: Path) -> int | None:
    """Of a model that transformers knows: by its own names for it, and its defaults."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True).get_text_config()
    except Exception as error:  # configurations check themselves, each by errors of its own
        raise PairFolderError(
            f"{path / CONFIG}: is not what transformers takes: {one_line(error)}"
        ) from error
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def one_line(error: Exception) -> str:
    """What it says, where each of our lines is an error of its own."""
    return " ".join(str(error).split())


def _context(config: dict[str, Any]) -> int | None:
    text = config.get("text_config")
    found = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return found if isinstance(found, int) else None


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
