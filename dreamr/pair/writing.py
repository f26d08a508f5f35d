"""Writes a pair's folder: Triton's model repository, the chat templates, and the settings of both."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import tomlkit

from dreamr.cluster.triton import MODELS
from dreamr.pair.model_folder import TEMPLATE, TOKENIZER_CONFIG, ModelFolder, PairFolderError, read_json

Backend = Literal["transformers", "vllm"]
ROLES = ("target", "draft")
SETTINGS, REPOSITORY, TEMPLATES = "pair.toml", "repository", "templates"
MAX_IMAGES = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Longer contexts take memory that a pair may not have; `model.json` is where to ask for more.
_MOST_CONTEXT: dict[Backend, int] = {"transformers": 8192, "vllm": 32_768}
_UNKNOWN_CONTEXT = 2048
# What the services read of a tokenizer, beside the template.
_TOKENIZER = "tokenizer.json"
# Where older models have the tokens that a template may name.
_MARKS = "special_tokens_map.json"
_TRANSFORMERS_CONFIG = """\
backend: "transformers"
instance_group [ { count: 1 kind: KIND_MODEL } ]
"""


def check_name(name: str) -> None:
    """Raises PairFolderError unless it is a name that may stand in paths and labels."""
    if not _NAME.fullmatch(name):
        raise PairFolderError(f"name {name!r}: must be letters, digits, '.', '_' and '-', 64 at most")


def write_pair(
    into: Path, name: str, models: dict[str, ModelFolder], *, backend: Backend, copy: bool
) -> Path:
    """Writes the folder, which must not exist; its settings file.

    Args:
        models: by role: target and draft.
        copy: the weights too, so that the folder can be taken elsewhere; otherwise `model.json` names them.

    Raises:
        OSError: it cannot be written.
    """
    into.mkdir(parents=True)
    context = {role: _context(model, backend) for role, model in models.items()}
    images = MAX_IMAGES if all(model.takes_images for model in models.values()) else 0
    for role, model in models.items():
        version = into / REPOSITORY / role / "1"
        version.mkdir(parents=True)
        if copy:
            shutil.copytree(model.path, version / "weights", ignore=shutil.ignore_patterns(".git", ".cache"))
        served = "weights" if copy else str(model.path)
        config = _TRANSFORMERS_CONFIG if backend == "transformers" else _vllm_config(role)
        (version.parent / "config.pbtxt").write_text(config, "utf-8")
        settings = _engine(role, backend, context[role], images, takes_images=model.takes_images)
        _write_json(version / "model.json", {"model": served} | settings)
        _write_template(into / TEMPLATES / role, model)
    path = into / SETTINGS
    path.write_text(_settings(name, min(context.values()), images), "utf-8")
    return path


def _context(model: ModelFolder, backend: Backend) -> int:
    return min(model.context or _UNKNOWN_CONTEXT, _MOST_CONTEXT[backend])


def _engine(role: str, backend: Backend, context: int, images: int, *, takes_images: bool) -> dict[str, Any]:
    """`model.json` but for the model itself."""
    if backend == "transformers":
        return {"dtype": "auto", "max_model_len": context, "limit_mm_per_prompt": {"image": images}}
    settings = json.loads((_vllm_repository() / role / "1" / "model.json").read_text("utf-8"))
    # How many GPUs there are is for the user to say.
    for key in ("model", "tensor_parallel_size", "limit_mm_per_prompt"):
        settings.pop(key, None)
    # vLLM refuses a limit of images for a model that takes none.
    limits = {"limit_mm_per_prompt": {"image": images, "video": 0}} if takes_images else {}
    return {**settings, "max_model_len": context, **limits}


def _vllm_repository() -> Path:
    """The repository for GPUs, which says how vLLM is served here."""
    return MODELS.parent / "compose" / "gpu" / REPOSITORY


def _vllm_config(role: str) -> str:
    return (_vllm_repository() / role / "config.pbtxt").read_text("utf-8")


def _write_template(folder: Path, model: ModelFolder) -> None:
    """What services read of a model: they find it beside the settings, without the weights."""
    folder.mkdir(parents=True)
    (folder / TEMPLATE).write_text(model.template, "utf-8")
    if (model.path / _TOKENIZER).is_file():
        shutil.copyfile(model.path / _TOKENIZER, folder / _TOKENIZER)
    config: dict[str, Any] = {}
    for name in (_MARKS, TOKENIZER_CONFIG):
        if (model.path / name).is_file():
            config |= {key: value for key, value in read_json(model.path / name).items() if value is not None}
    _write_json(folder / TOKENIZER_CONFIG, config)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _settings(name: str, context: int, images: int) -> str:
    """The pair's settings: those of the pair for GPUs, with limits that fit the shorter context (tokens)."""
    source = MODELS.parent / "compose" / "gpu" / SETTINGS
    settings = tomlkit.parse(source.read_text("utf-8")).unwrap()
    reasoning = settings["reasoning"]
    # Half of the context for the reasoning, an eighth for the answer; the rest is question, images and judge.
    for key, share in (("max_reasoning_tokens", 2), ("max_answer_tokens", 8), ("max_step_tokens", 8)):
        reasoning[key] = min(reasoning[key], max(1, context // share))
    # Some four characters are a token.
    reasoning["max_question_chars"] = min(32_000, context)
    reasoning["min_images"], reasoning["max_images"] = 0, images
    for role in ROLES:
        settings[role]["template"] = f"{TEMPLATES}/{role}"
    settings["name"] = name
    document = tomlkit.document()
    document.add(
        tomlkit.comment("A pair of models and how they reason; services/common/pair.py has every key.")
    )
    for key, value in settings.items():
        document.add(key, value)
        if key == "tbvm":
            document[key]["alpha"].comment("the paper's; `dreamr calibrate --write` sets this pair's own")
    return tomlkit.dumps(document)
