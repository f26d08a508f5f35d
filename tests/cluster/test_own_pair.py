"""A pair of one's own, from two folders to a cluster: `dreamr pair add`, and what it has written served."""

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dreamr
from dreamr.cli.main import app
from dreamr.cluster.cluster import Cluster
from dreamr.pair.probe import probe
from dreamr.v1 import common_pb2
from tests.cluster.test_text_model import convert
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.cluster


def add(folder: Path, target: Path, draft: Path) -> str:
    """Adds and tries out a pair; what the command printed."""
    command = ["pair", "add", "own", "--target", str(target), "--draft", str(draft), "--into", str(folder)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert re.fullmatch(
        r"target .* tokens/s.*\ndraft .* tokens/s.*\nratio +[\d.]+\nverdict +[\d.]+ .*\n.*pair.toml\n",
        done.stdout,
    ), done.stdout
    return done.stdout


@pytest.mark.asyncio(loop_scope="session")
async def test_a_pair_that_runs_is_tried_out(cluster: Cluster) -> None:
    found = await probe(cluster.addresses, 1)
    assert found.target.tokens > 0
    assert found.ratio > 0
    assert found.verdict.rule == common_pb2.VERIFICATION_RULE_TBVM


@pytest.mark.slow
def test_a_pair_is_written_and_tried_out(tmp_path: Path) -> None:
    target = make_tiny_model(tmp_path / "target", layers=6, hidden=256, max_positions=1024)
    draft = make_tiny_model(tmp_path / "draft", max_positions=1024)
    said = add(tmp_path / "own", target, draft)
    ratio = re.search(r"ratio +([\d.]+)", said)
    assert ratio is not None
    assert float(ratio[1]) > 0


@pytest.mark.slow
def test_a_text_model_of_pypi_answers_by_a_cluster(tmp_path: Path) -> None:
    target = convert(tmp_path / "target")
    add(tmp_path / "own", target, shutil.copytree(target, tmp_path / "draft"))
    answer = asyncio.run(ask(tmp_path / "own" / "pair.toml", "What is the capital of France?"))
    print(json.dumps([answer.answer, [(step.author, step.text) for step in answer.steps]]))
    assert answer.policy == "fpsr"
    assert "Paris" in answer.answer + "".join(step.text for step in answer.steps)


async def ask(settings: Path, question: str) -> dreamr.Answer:
    """What a cluster with the pair says."""
    async with (
        Cluster(pair=str(settings)) as cluster,
        dreamr.AsyncClient(cluster.address, timeout=240) as client,
    ):
        return await client.ask(question, policy="fpsr")


@pytest.mark.slow
def test_questions_go_on_to_calibration(tmp_path: Path) -> None:
    model, questions = make_tiny_model(tmp_path / "model", max_positions=1024), tmp_path / "questions.jsonl"
    questions.write_text('{"question": "what ?"}\n')
    into = tmp_path / "own"
    command = ["pair", "add", "own", "--target", str(model), "--draft", str(model), "--into", str(into)]
    done = CliRunner().invoke(app, [*command, "--no-probe", "--questions", str(questions)])
    # One question is too few to choose by: the pair stays as it was written.
    assert done.exit_code == 1, done.output
    assert "is left as it is" in " ".join(done.stderr.split())
    assert "alpha: " in done.stdout
