"""Drafts as folders: loaded, begun with, and written out from a checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

RECORDS = shutil.ignore_patterns("README.md", "figures.json", "training.json")
NOT_WEIGHTS = shutil.ignore_patterns(
    "*.safetensors", "*.bin", "*.index.json", "README.md", "figures.json", "training.json"
)


def load_model(folder: Path, *, adapters: bool) -> Any:
    """The model, of the class that the backend takes.

    In float32: an update may be smaller than bfloat16 can tell. Under `adapters` its weights stay as they
    are, and a GPU gets them in bfloat16.
    """
    _, model_class = _classes(folder)
    dtype = torch.bfloat16 if adapters and torch.cuda.is_available() else torch.float32
    return model_class.from_pretrained(folder, dtype=dtype, local_files_only=True)


def load_processor(folder: Path) -> Any:
    """The processor, or the tokenizer where a model sees no images."""
    return AutoProcessor.from_pretrained(folder, local_files_only=True, padding_side="left")


def begin(draft: Path, start: Path) -> None:
    """Copies a draft to begin with; its config then names its class, by which TRL loads the reference."""
    config, model_class = _classes(draft)
    shutil.copytree(draft, start, ignore=RECORDS)
    path = start / "config.json"
    # The mapping of an auto class is keyed by the config's class.
    name = model_class._model_mapping[type(config)].__name__
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": [name]}, indent=2) + "\n")


def export(start: Path, checkpoint: Path, weights: Path, note: str) -> None:
    """Writes a checkpoint's weights in bfloat16, with everything else as the draft had it.

    Adapters are merged. `checkpoint` may be `start` itself.

    Args:
        note: how these very weights came about.
    """
    model = load_model(checkpoint if is_whole(checkpoint) else start, adapters=False)
    if not is_whole(checkpoint):
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    partial = weights.with_name(f"{weights.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(start, partial, ignore=NOT_WEIGHTS)
    model.to(torch.bfloat16).save_pretrained(partial)
    about: dict[str, Any] = {"note": note, "parameters": model.num_parameters()}
    (partial / "training.json").write_text(json.dumps(about, indent=2) + "\n")
    # safetensors writes for its owner alone, and Triton may run as somebody else.
    for file in partial.iterdir():
        file.chmod(0o644)
    partial.replace(weights)


def _classes(folder: Path) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    return config, AutoModelForImageTextToText if sees else AutoModelForCausalLM


def is_whole(checkpoint: Path) -> bool:
    """Whether it has all weights, not adapters alone."""
    return not (checkpoint / "adapter_config.json").exists()
