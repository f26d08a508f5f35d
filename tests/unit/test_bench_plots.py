"""Figures of a report: which there are, what they say, and that they can be drawn again."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.plots import draw, main

SECONDS = {"target": [2.0, 3.0, 4.0], "fpsr": [1.0, 1.5, 2.0]}


def level(concurrency: int, workers: int = 1) -> dict[str, Any]:
    return {
        "concurrency": concurrency,
        "questions": 3,
        "speedup": {"fpsr": {"ratio": 2.0, "ci95": [1.8, 2.25]}},
        "policies": {
            name: {
                "latency_seconds": {"samples": samples},
                "answers_per_second": concurrency / samples[1],
                "drafted_tokens_per_second": 100.0 * workers if name == "fpsr" else 0.0,
            }
            for name, samples in SECONDS.items()
        },
    }


def report() -> dict[str, Any]:
    return {"pair": "bundled", **level(1)}


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_report_of_one_level_has_latencies_and_speedups(tmp_path: Path) -> None:
    assert names(draw(report(), tmp_path / "new")) == ["latency.svg", "speedup.svg"]
    latency, speedup = ((tmp_path / "new" / f"{name}.svg").read_text() for name in ("latency", "speedup"))
    # Text is drawn as shapes; matplotlib writes it beside them as a comment.
    assert "fpsr, median 1.5 s" in latency
    assert "target, median 3 s" in latency
    assert "<!-- 2.00 -->" in speedup


def test_without_the_target_there_is_no_speedup(tmp_path: Path) -> None:
    assert names(draw(report() | {"speedup": {}}, tmp_path)) == ["latency.svg"]


def test_several_levels_and_numbers_of_workers_have_figures_of_their_own(tmp_path: Path) -> None:
    levels = [level(1), level(16)]
    workers = [{"draft_workers": count, **level(1, count), "levels": levels} for count in (1, 4)]
    workers[1]["levels"] = [level(1, 4), level(16, 4)]
    found = draw(report() | {"levels": levels, "draft_workers": workers}, tmp_path)
    assert names(found) == ["latency.svg", "speedup.svg", "throughput.svg", "draft-workers.svg"]
    # Of the highest concurrency.
    assert "bundled, 16 questions at the same time" in found[3].read_text()


def test_a_policy_has_one_colour_and_a_report_one_picture(tmp_path: Path) -> None:
    levels = report() | {"levels": [level(1), level(4)]}
    first, second = (draw(levels, tmp_path / folder) for folder in ("first", "second"))
    for one, again in zip(first, second, strict=True):
        assert "#0072b2" in one.read_text().lower()
        assert one.read_bytes() == again.read_bytes()


def test_a_stored_report_is_drawn_and_anything_else_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["plots", str(stored), str(tmp_path / "figures")])
    stored.write_text(json.dumps(report()))
    main()
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "figures" / name) for name in ("latency.svg", "speedup.svg")
    ]
    for text, problem in (("{}", "no report of `dreamr bench`"), ("[]", "no report"), ("{", "Expecting")):
        stored.write_text(text)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert problem in capsys.readouterr().err
