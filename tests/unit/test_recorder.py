"""Sessions as training data: only where asked for, only a share, and never more than there is room for."""

import json
import stat
from pathlib import Path
from typing import Any

from dreamr.v1 import common_pb2, gateway_pb2
from tests.unit.running_gateway import Options, gateway, request
from training.sapo.questions import from_file


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]


async def test_a_session_is_recorded_as_questions_that_a_draft_learns_from(tmp_path: Path) -> None:
    folder = tmp_path / "record"
    async with gateway(record=folder, record_share=1.0) as running:
        for policy in ("fpsr", "target", "fpsr"):
            # No rival overtakes a verdict, however busy the machine is.
            running.parts.target_delay = 30 if policy == "fpsr" else 0
            await running.reason(request(Options(policy=policy, governor=False)))
    found = lines(folder)
    assert [one["question"] for one in found] == ["what ?"] * 3
    steps = list(running.parts.steps)
    judged = [(one["index"], one["text"], one["accept"]) for one in found[0]["candidates"]]
    assert judged == [(index, text, True) for index, text in enumerate(steps)]
    assert found[0]["candidates"][1]["prefix"] == steps[:1]
    rivals = [(one["index"], one["prefix"], one["text"]) for one in found[1]["rivals"]]
    assert rivals == [(index, steps[:index], text) for index, text in enumerate(steps)]
    assert found[1]["candidates"] == []
    (file,) = folder.glob("*.jsonl")
    questions = from_file(file)
    assert {question.answer for question in questions} == {"42"}
    assert questions[0].images == (request().images[0].data,)
    # The same image is kept once, and nobody else may read any of it.
    assert len(list((folder / "images").iterdir())) == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_nothing_is_kept_that_was_not_asked_for(tmp_path: Path) -> None:
    async with gateway(record=tmp_path / "none", record_share=0.0) as running:
        await running.reason()
    assert lines(tmp_path / "none") == []
    async with gateway() as running:
        await running.reason()
    assert list(tmp_path.rglob("*.jsonl")) == []


async def test_answers_behind_steps_of_the_clients_teach_nothing(tmp_path: Path) -> None:
    async with gateway(record=tmp_path, record_share=1.0) as running:
        for given in ([common_pb2.Step(text="wrong")], [common_pb2.Step(closes=True)]):
            told = await running.reason(request(steps=given))
            assert told[-1].finished.answer
        assert lines(tmp_path) == []
        await running.reason()
    assert len(lines(tmp_path)) == 1


async def test_recording_ends_where_the_folder_is_full(tmp_path: Path) -> None:
    async with gateway(record=tmp_path, record_share=1.0, record_max_bytes=2500) as running:
        for _ in range(6):
            told = await running.reason()
            assert told[-1].HasField("finished")
    assert 0 < len(lines(tmp_path)) < 6
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 2500


async def test_a_folder_that_cannot_be_written_fails_no_session(tmp_path: Path) -> None:
    async with gateway(record=tmp_path, record_share=1.0) as running:
        (tmp_path / "images").rmdir()
        (tmp_path / "images").write_text("in the way")
        told: list[gateway_pb2.ReasonResponse] = await running.reason()
    assert told[-1].finished.answer == "42"
    assert lines(tmp_path) == []
