"""The command line, as far as it needs no cluster; tests/cluster has the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dreamr.events import Activity, Verdict
from dreamr.timeline import draw, spans

DREAMR = [sys.executable, "-c", "from dreamr.cli import main; main()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DREAMR, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_sample_writes_questions(tmp_path: Path) -> None:
    assert run("sample", "--count", "3", "--seed", "5", "--out", str(tmp_path)).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert (tmp_path / line["image"]).read_bytes().startswith(b"\x89PNG")
        assert line["question"]
        assert line["answer"].isdecimal()


def test_wrong_use_is_told_without_a_traceback(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"x")
    for arguments, status in (
        (["ask", "nowhere.png", "q"], 2),
        (["ask", "-", "q", "--address", "127.0.0.1:1", "--timeout", "2"], 1),
        (["ask", str(image), "q", "--address", "127.0.0.1:1", "--timeout", "2"], 1),
        (["bench", "--questions", "0"], 2),
        (["bench", "--concurrency", "1,x"], 2),
        (["bench", "--plots", str(image)], 2),
        (["bench", "--address", "127.0.0.1:1"], 1),
        (["up", "--draft-workers", "17"], 2),
        (["up", "--tls", str(tmp_path)], 1),
    ):
        ended = run(*arguments)
        assert ended.returncode == status
        assert "Traceback" not in ended.stderr
        assert ended.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--draft-workers", "0,1"], "give numbers from 1 to 16"),
        (["--draft-workers", "2", "--address", "127.0.0.1:1"], "not with --address"),
    ],
)
def test_numbers_of_draft_workers_that_cannot_be_had(arguments: list[str], problem: str) -> None:
    ended = run("bench", *arguments)
    assert ended.returncode == 2
    assert "--draft-workers" in ended.stderr
    assert problem in ended.stderr


def test_commands_run_where_only_what_they_need_is_installed() -> None:
    """As in the images of services and of Triton, and behind `pip install dreamr`."""
    code = (
        "import sys; sys.modules |= dict.fromkeys(('cryptography', 'torch', 'trl', 'matplotlib'))\n"
        "import dreamr.cli.main, dreamr.cli.ask, dreamr.cli.triton, dreamr.cluster.serve"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_client_brings_no_heavy_library() -> None:
    code = (
        "import sys, dreamr; print([n for n in ('torch', 'transformers', 'matplotlib') if n in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def activity(call: int, part: str, phase: str, at: float, index: int = 0) -> Activity:
    verdict = Verdict(True, "score", 0.9, 0.1, 0.9, 0.7, 1.0, 0.1) if phase == "done" else None
    return Activity(call, part, phase, index, at, "", verdict if part == "verdict" else None)


def test_a_timeline_shows_who_worked_when(tmp_path: Path) -> None:
    events = [
        activity(1, "rival", "started", 0.0),
        activity(2, "draft", "started", 0.0),
        activity(2, "draft", "step", 0.1),
        activity(3, "verdict", "started", 0.1),
        activity(2, "draft", "step", 0.2, index=1),
        activity(3, "verdict", "done", 0.25),
        activity(1, "rival", "cancelled", 0.25),
        activity(2, "draft", "done", 0.3),
        activity(4, "draft", "started", 0.3, index=2),
        activity(4, "draft", "step", 0.4, index=2),
        # A call that ends names its first position.
        activity(4, "draft", "cancelled", 0.45, index=2),
    ]
    found = [(span.lane, span.index, span.start, span.end, span.outcome) for span in spans(events)]
    assert found == [
        ("draft", 0, 0.0, 0.1, "done"),
        ("draft", 1, 0.1, 0.2, "done"),
        ("verdict", 0, 0.1, 0.25, "accepted"),
        ("rival", 0, 0.0, 0.25, "cancelled"),
        ("draft", 2, 0.3, 0.4, "done"),
        ("draft", 3, 0.4, 0.45, "cancelled"),
    ]
    draw(events, tmp_path / "timeline.svg", "a test")
    assert (tmp_path / "timeline.svg").read_text().startswith("<?xml")
