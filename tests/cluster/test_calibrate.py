"""`dreamr calibrate` against real parts, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dreamr.cluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="session")]

DREAMR = [sys.executable, "-c", "from dreamr.cli import main; main()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DREAMR, *arguments], capture_output=True, text=True, timeout=250, check=False)


def calibrated(cluster: Cluster, questions: Path, *arguments: str) -> dict[str, Any]:
    out = questions.with_name("report.json")
    ended = run(
        *("calibrate", "--questions", str(questions), "--json", str(out), "--address", cluster.address),
        *arguments,
    )
    assert ended.returncode == 0, ended.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    return report


async def test_a_judge_is_calibrated_from_a_file_of_questions(cluster: Cluster, tmp_path: Path) -> None:
    ended = run("sample", "--split", "calibration", "--count", "4", "--out", str(tmp_path), "--seed", "3")
    assert ended.returncode == 0, ended.stderr
    questions = tmp_path / "questions.jsonl"
    asked = [json.loads(line) for line in questions.read_text().splitlines()]
    report = calibrated(
        *(cluster, questions, "--alphas", "0.5,0.9", "--runs", "2", "--plots", str(tmp_path / "plots"))
    )
    steps = report["steps"]
    assert report["questions"]["labelled_by"] == {"steps": 4}
    # The target reasons in as many steps as a question takes, and each has a candidate.
    assert steps["judged"] == sum(len(one["steps"]) for one in asked)
    assert steps["right"] > steps["wrong"]
    assert all(0 <= one["score"] <= 1 for one in steps["samples"])
    assert [one["alpha"] for one in report["by_alpha"]] == [0.5, 0.9]
    assert set(report["runs"]["policies"]) == {"target", "fpsr:0.5", "fpsr:0.9"}
    assert report["choice"]["tolerance"] == 0.005
    assert "pareto.svg" in {path.name for path in (tmp_path / "plots").iterdir()}

    # Nothing known but the questions: the target's own answers label its continuations.
    bare = [{"images": [one["image"]], "question": one["question"]} for one in asked]
    questions.write_text("".join(f"{json.dumps(one)}\n" for one in bare))
    own = calibrated(cluster, questions, "--runs", "0")
    assert (own["questions"]["self_labelled"], own["questions"]["labelled_by"]) == (4, {"rollouts": 4})
    assert own["choice"] is None
    scores = [[one["score"] for one in found["steps"]["samples"]] for found in (report, own)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


async def test_a_file_that_is_wrong_is_refused_by_its_line(cluster: Cluster, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "fine ?"}\n{"question": ""}\n')
    ended = run("calibrate", "--questions", str(questions), "--address", cluster.address)
    assert ended.returncode == 2
    assert ":2: question: must be a text" in " ".join(ended.stderr.replace("│", " ").split())
