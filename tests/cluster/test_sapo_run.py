"""A small SAPO run on a real cluster, stopped and gone on with, up to a new version. `make test-slow`."""

import json
import shutil
from pathlib import Path

import pytest

from dreamr.cluster.triton import MODELS
from dreamr.cluster.versions import new_version, versions
from training.sapo.records import Records
from training.sapo.settings import SapoSettings

pytest.importorskip("trl", reason="pip install 'dreamr[sapo]'")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SETTINGS = SapoSettings(steps=2, batch=2, group=4, evaluate_every=2, validation=3, max_loss=1, margin=1)


async def test_a_draft_learns_from_the_live_verifier(tmp_path: Path) -> None:
    from training.sapo.run import RunError, Sapo, Told

    steps = list[int]()
    work = Sapo(tmp_path / "run", SETTINGS)
    work.prepare(resume=False)
    assert await work.learn(Told(step=steps.append)) == 2
    with pytest.raises(RunError, match="holds a run"):
        work.prepare(resume=False)
    with pytest.raises(RunError, match="other settings: seed"):
        Sapo(tmp_path / "run", SETTINGS.model_copy(update={"seed": 5})).prepare(resume=True)
    longer = Sapo(tmp_path / "run", SETTINGS.model_copy(update={"steps": 3}))
    longer.prepare(resume=True)
    assert await longer.learn(Told(step=steps.append)) == 3
    assert steps == [1, 2, 3]
    records = Records(tmp_path / "run")
    assert [row["step"] for row in records.metrics()] == [1, 2, 3]
    # A trained draft: some of its steps are accepted, and its rollouts are told apart.
    assert all(0 < row["acceptance"] <= 1 for row in records.metrics())
    found = records.evaluations()
    assert [one.step for one in found] == [0, 2, 3]
    assert all(one.acceptance > 0.3 and one.accuracy["target"] > 0.5 for one in found)
    assert longer.best() in found
    # What stays is a folder as Triton's repository has it.
    draft = tmp_path / "draft"
    shutil.copytree(MODELS / "repository" / "draft", draft)
    before = versions(draft)
    new_version(draft, longer.best_folder)
    assert versions(draft) == [*before, before[-1] + 1]
    assert json.loads((draft / str(versions(draft)[-1]) / "model.json").read_text())["model"] == "weights"
