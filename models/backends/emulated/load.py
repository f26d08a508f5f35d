"""Puts an emulated model together, from the parameters of `config.pbtxt`."""

import importlib
from pathlib import Path
from typing import Any

from .profile import Profile, ProfileError, Role
from .runner import EmulatedEncoder, EmulatedRunner
from .script import Script

MAX_MODEL_LEN = 16_384


def load(args: dict[str, str], host: Any, parameters: dict[str, str]) -> Any:
    """The engine's settings, the runner and the encoder.

    Raises:
        ProfileError: a parameter is missing or wrong.
    """
    profile = Profile.load(Path(parameters.get("PROFILE", "")))
    role: Role
    match parameters.get("ROLE"):
        case "draft":
            role, latency = "draft", profile.draft
        case "target":
            role, latency = "target", profile.target
        case other:
            raise ProfileError(f"config.pbtxt: ROLE must be draft or target, not {other!r}")
    runner = EmulatedRunner(latency, Script(role, profile.behaviour), MAX_MODEL_LEN)
    # The engine's own package, under the name that its model.py gave it.
    settings = importlib.import_module("dreamr_backend.config").ModelSettings(
        model=Path("/"),
        max_num_seqs=latency.max_num_seqs,
        max_num_batched_tokens=latency.max_num_batched_tokens,
        stream_interval=4,
    )
    return settings, runner, EmulatedEncoder(profile.behaviour.image_tokens)
