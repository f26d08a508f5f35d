"""The learner alone: a run that is stopped goes on as if it never had been. Needs TRL: `make test-slow`."""

import io
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from services.common.pair import ReasoningSettings
from tests.tiny_model import make_tiny_model
from training.sapo.drafts import begin, export, load_model
from training.sapo.questions import Question
from training.sapo.records import Records
from training.sapo.rollout import Rollout
from training.sapo.settings import SapoSettings

pytest.importorskip("trl", reason="pip install 'dreamr[sapo]'")

# Libraries' notes to each other.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SETTINGS = SapoSettings(
    steps=4, batch=2, group=4, micro=4, rate=0.01, warm_up=1, evaluate_every=4, validation=1
)
REASONING = ReasoningSettings(max_reasoning_tokens=12, max_answer_tokens=4)


def questions() -> list[Question]:
    found = []
    for number in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (16, 16), (number * 80, 0, 0)).save(buffer, format="PNG")
        found.append(Question(f"{number} ?", (buffer.getvalue(),), "7", 10))
    return found


def accepted(asked: Sequence[Question], rollouts: Sequence[Rollout]) -> list[int]:
    """A judge that likes the letter e, which a random model writes now and then."""
    del asked
    return [sum("e" in step.text for step in rollout.steps) for rollout in rollouts]


def learn(
    folder: Path, settings: SapoSettings = SETTINGS, stop_at: int = 0
) -> tuple[int, list[tuple[int, str]]]:
    from training.sapo.learner import Learner

    stop, evaluated = threading.Event(), list[tuple[int, str]]()
    learner = Learner(
        folder,
        settings,
        REASONING,
        questions(),
        accepted=accepted,
        on_checkpoint=lambda step, checkpoint: evaluated.append((step, checkpoint.name)),
        on_step=lambda step: stop.set() if step == stop_at else None,
        stop=stop,
    )
    return learner.learn(), evaluated


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "draft")


def test_a_run_that_was_stopped_ends_where_it_would_have_ended(tmp_path: Path, start: Path) -> None:
    for name in ("whole", "pieces"):
        begin(start, tmp_path / name / "start")
    assert learn(tmp_path / "whole") == (4, [(0, "start"), (4, "checkpoint-4")])
    assert learn(tmp_path / "pieces", stop_at=2) == (2, [(0, "start")])
    # What came behind the checkpoint is forgotten, and a part of one is none.
    Records(tmp_path / "pieces").note(3, {"reward": 99.0})
    (tmp_path / "pieces" / "checkpoint-3").mkdir()
    (tmp_path / "pieces" / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    assert learn(tmp_path / "pieces") == (4, [(4, "checkpoint-4")])
    whole, pieces = (
        load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "pieces")
    )
    begun = load_file(tmp_path / "whole" / "start" / "model.safetensors")
    assert all(torch.equal(whole[name], pieces[name]) for name in whole)
    assert not all(torch.equal(whole[name], begun[name]) for name in whole)
    rows = [
        [{name: value for name, value in row.items() if name != "seconds"} for row in Records(run).metrics()]
        for run in (tmp_path / "whole", tmp_path / "pieces")
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4]
    assert all({"outcome", "acceptance", "length", "kl"} <= row.keys() for row in rows[0])


def test_a_run_may_be_made_longer(tmp_path: Path, start: Path) -> None:
    begin(start, tmp_path / "run" / "start")
    short = SETTINGS.model_copy(update={"steps": 2})
    assert learn(tmp_path / "run", short)[0] == 2
    assert learn(tmp_path / "run", SETTINGS) == (4, [(4, "checkpoint-4")])


def test_adapters_learn_and_are_merged_on_export(tmp_path: Path, start: Path) -> None:
    begin(start, tmp_path / "run" / "start")
    settings = SETTINGS.model_copy(update={"steps": 2, "lora": 2})
    assert learn(tmp_path / "run", settings, stop_at=1)[0] == 1
    assert learn(tmp_path / "run", settings)[0] == 2
    export(tmp_path / "run" / "start", tmp_path / "run" / "checkpoint-2", tmp_path / "weights", "2 updates")
    before = load_model(tmp_path / "run" / "start", adapters=False).state_dict()
    after = load_model(tmp_path / "weights", adapters=False).state_dict()
    assert before.keys() == after.keys()
    # Written in bfloat16: what differs by more than its rounding has learnt.
    assert any(not torch.equal(before[name].bfloat16().float(), after[name]) for name in before)
    assert torch.equal(before["lm_head.weight"].bfloat16().float(), after["lm_head.weight"])
