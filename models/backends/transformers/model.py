"""Triton's side of the backend: what Triton calls, and nothing that computes.

Speaks the tensors of the vLLM backend: `backend: "vllm"` in a model's config is all that changes on a GPU.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.backends.transformers.instance import Instance
    from models.backends.transformers.tensors import INPUTS, OUTPUTS
else:
    # Triton loads this file by its path, from a folder that shares its name with Hugging Face's library: the
    # modules beside it are imported as a package with a name of its own.
    _FOLDER = Path(__file__).resolve().parent
    _spec = importlib.util.spec_from_file_location(
        "dreamr_backend", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
    )
    sys.modules["dreamr_backend"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["dreamr_backend"])
    from dreamr_backend.tensors import INPUTS, OUTPUTS


class TritonPythonModel:
    """One model instance, as Triton's python backend calls it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Fill in the tensors, so that a model's config.pbtxt need not list them."""
        known = auto_complete_model_config.as_dict()
        inputs = {entry["name"] for entry in known["input"]}
        outputs = {entry["name"] for entry in known["output"]}
        for name, (kind, dims, optional) in INPUTS.items():
            if name not in inputs:
                entry = {"name": name, "data_type": kind, "dims": dims}
                auto_complete_model_config.add_input({**entry, "optional": True} if optional else entry)
        for name, (kind, dims) in OUTPUTS.items():
            if name not in outputs:
                auto_complete_model_config.add_output({"name": name, "data_type": kind, "dims": dims})
        auto_complete_model_config.set_model_transaction_policy({"decoupled": True})
        auto_complete_model_config.set_max_batch_size(0)
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start its engine; an exception is the reason Triton gives for not loading."""
        # Not imported above: Triton runs this file a first time to complete the config, which needs no torch.
        self._instance: Instance = importlib.import_module("dreamr_backend.instance").Instance(args)

    def execute(self, requests: list[Any]) -> None:
        """Hand requests to the engine; answers come from its threads."""
        self._instance.execute(requests)

    def finalize(self) -> None:
        """Stop the engine; what is under way fails with UNAVAILABLE."""
        self._instance.stop()
