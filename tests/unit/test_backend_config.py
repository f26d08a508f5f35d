"""Settings of a served model."""

import json
from pathlib import Path

import pytest

from models.backends.transformers.config import HostSettings, ModelSettings
from models.backends.transformers.errors import ConfigError


def load(folder: Path, **values: object) -> ModelSettings:
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"model": "weights", **values}))
    return ModelSettings.load(folder)


def test_a_relative_model_is_within_the_version(tmp_path: Path) -> None:
    assert load(tmp_path).model == tmp_path / "weights"
    assert load(tmp_path, model=str(tmp_path)).model == tmp_path


def test_arguments_that_only_vllm_understands_are_allowed(tmp_path: Path) -> None:
    assert load(tmp_path, gpu_memory_utilization=0.5, max_num_seqs=3).max_num_seqs == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_model_length": 5}, "unknown key.*max_model_length"),
        ({"dtype": "float8"}, "dtype must be one of"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1"),
        ({"max_num_seqs": "3"}, "max_num_seqs has a value of the wrong type"),
        ({"limit_mm_per_prompt": {"video": 1}}, "only `image`"),
        ({"model": "nowhere"}, "no folder"),
        ({"model": 3}, "`model`"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, **values)


def test_parameters_of_the_config() -> None:
    assert (
        HostSettings.load(
            {"MAX_QUEUE_SIZE": {"string_value": "7"}, "OTHER": {"string_value": "x"}}
        ).max_queue_size
        == 7
    )
    with pytest.raises(ConfigError, match="INTRA_OP_THREAD_COUNT"):
        HostSettings.load({"INTRA_OP_THREAD_COUNT": {"string_value": "all"}})
