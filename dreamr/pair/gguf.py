"""A GGUF file as the folder that a pair takes."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreamr.pair.model_folder import PairFolderError, one_line
from dreamr.pair.new_folder import check_new, staged

_PACKAGES = ("gguf", "accelerate")


def convert(file: Path, into: Path) -> None:
    """Writes weights in 32 bits, tokenizer and chat template, or leaves nothing behind.

    Raises:
        PairFolderError: a package is missing, or transformers cannot read the file.
        OSError: the folder cannot be written.
    """
    check_new(into)
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise PairFolderError(
            f"not installed: {', '.join(missing)}; .venv/bin/pip install --no-deps --constraint "
            f"constraints.txt {' '.join(missing)}"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    read: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, quantization_config=GgufConfig(dequantize=True), dtype="float32", **read
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **read)
    except Exception as error:  # it raises whatever the reading of a file may
        raise PairFolderError(f"{file}: cannot be read by transformers: {one_line(error)}") from error
    # What it is from now on.
    model.config.quantization_config = None
    with staged(into) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
