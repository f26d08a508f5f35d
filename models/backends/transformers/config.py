"""Settings of one model: `1/model.json` with vLLM's names, and our own in `config.pbtxt`'s parameters.

Our own settings stand in `config.pbtxt`, where vLLM's backend ignores them, so that `model.json` stays
valid for vLLM.
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import ConfigError

DTYPES = ("auto", "float32", "bfloat16", "float16")
# Engine arguments of vLLM that steer its GPU memory and compilation: right in a model.json, without meaning
# here.
VLLM_ONLY = frozenset(
    {
        "disable_log_requests",
        "disable_log_stats",
        "enforce_eager",
        "gpu_memory_utilization",
        "pipeline_parallel_size",
        "seed",
        "swap_space",
        "tensor_parallel_size",
    }
)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What `1/model.json` may hold; the names are vLLM's engine arguments. Token counts, bytes."""

    model: Path
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 8
    max_num_batched_tokens: int = 256
    stream_interval: int = 1
    max_logprobs: int = 20
    enable_prefix_caching: bool = True
    kv_cache_memory_bytes: int = 256 << 20
    limit_mm_per_prompt: dict[str, int] = field(default_factory=lambda: {"image": 8})

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"model.json: dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        for name in ("max_num_seqs", "max_num_batched_tokens", "stream_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.json: {name} must be at least 1")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ConfigError("model.json: max_model_len must be at least 2")
        if self.kv_cache_memory_bytes < 0 or self.max_logprobs < 0:
            raise ConfigError("model.json: kv_cache_memory_bytes and max_logprobs must not be negative")
        if set(self.limit_mm_per_prompt) - {"image"}:
            raise ConfigError("model.json: limit_mm_per_prompt knows only `image`")
        if not self.model.is_dir():
            raise ConfigError(f"model.json: model names {self.model}, which is no folder")

    @property
    def max_images(self) -> int:
        """Most images in one prompt."""
        return self.limit_mm_per_prompt.get("image", 0)

    @classmethod
    def load(cls, version_folder: Path) -> "ModelSettings":
        """Read `model.json`.

        Raises ConfigError for a missing file, an unknown key or a value of the wrong type.
        """
        path = version_folder / "model.json"
        try:
            values: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
        if not isinstance(values, dict) or not isinstance(values.get("model"), str):
            raise ConfigError(f"{path} must be an object whose key `model` names the model's folder")
        known = {entry.name: entry for entry in fields(cls)}
        unknown = sorted(set(values) - set(known) - VLLM_ONLY)
        if unknown:
            raise ConfigError(
                f"{path}: unknown key(s) {', '.join(unknown)}; known are {', '.join(sorted(known))}"
            )
        values = {name: value for name, value in values.items() if name in known}
        for name, value in values.items():
            _check_type(path, name, known[name].type, value)
        # A relative path is relative to the version's folder; Path keeps an absolute one as it is.
        values["model"] = version_folder / values["model"]
        return cls(**values)


def _check_type(path: Path, name: str, kind: Any, value: object) -> None:
    wanted: Any = {int: int, bool: bool, str: str, Path: str, int | None: (int, type(None))}.get(kind, dict)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ConfigError(f"{path}: {name} has a value of the wrong type: {value!r}")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Parameters of `config.pbtxt`. Threads, requests, bytes, pixels."""

    intra_op_thread_count: int | None = None
    max_queue_size: int = 64
    max_image_bytes: int = 16 << 20
    max_image_pixels: int = 16_000_000

    @classmethod
    def load(cls, parameters: dict[str, dict[str, str]]) -> "HostSettings":
        """Take the parameters that are ours (upper case); other names are left to whoever they are for."""
        values: dict[str, int] = {}
        for entry in fields(cls):
            found = parameters.get(entry.name.upper())
            if found is None:
                continue
            text = found.get("string_value", "")
            if not text.isdecimal() or int(text) < 1:
                raise ConfigError(
                    f"config.pbtxt: {entry.name.upper()} must be a whole number from 1 on, not {text!r}"
                )
            values[entry.name] = int(text)
        return cls(**values)
