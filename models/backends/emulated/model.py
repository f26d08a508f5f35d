"""Triton's side of the emulation; engine, tensors and everything else are the `transformers` backend's.

Parameters in `config.pbtxt`: PROFILE (a file of `models/emulated/profiles`), ROLE (draft or target).
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.backends.transformers.model import TritonPythonModel as Base
else:
    _FOLDER = Path(__file__).resolve().parent

    def _load(name: str, path: Path, **options: Any) -> Any:
        spec = importlib.util.spec_from_file_location(name, path, **options)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    Base = _load("dreamr_transformers_model", _FOLDER.parent / "transformers" / "model.py").TritonPythonModel
    _load("dreamr_emulated", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)])


class TritonPythonModel(Base):
    """One emulated model, as Triton's python backend calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the profile and starts the engine."""
        instance = importlib.import_module("dreamr_backend.instance")
        load = importlib.import_module("dreamr_emulated.load").load
        self._instance = instance.Instance(args, load)
