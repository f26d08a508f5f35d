"""Candidates, labels, report, figures and settings of a calibration; gateway real, models not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.calibration.candidates import Candidate
from bench.calibration.collect import Collected, collect
from bench.calibration.labels import Rollouts, by_steps
from bench.calibration.plots import draw
from bench.calibration.report import report, tables
from bench.calibration.settings import write_alpha
from bench.questions import Question, held_out
from bench.runner import Measured, Sample
from dreamr.client import AsyncClient
from dreamr.cluster.triton import MODELS
from dreamr.events import Answer
from dreamr.v1 import common_pb2, verifier_pb2
from services.common.pair import Pair
from services.gateway.rule import Rule
from tests.unit.fake_services import STEPS, FakeServices
from tests.unit.running_gateway import gateway
from tests.unit.test_bench_bound import session

IMAGES = held_out(1, seed=1)[0].images


class Judged(FakeServices):
    """A draft that is wrong at position 1, and a judge that knows it: 0.9 for right steps, 0.2 for wrong.

    Behind the wrong step the target comes to another answer.
    """

    async def Draft(self, request: Any, context: Any) -> Any:
        """See the proto."""
        async for response in super().Draft(request, context):
            if len(request.context.steps) == 1:
                response.step.text = "wrong"
            yield response

    async def Verify(self, request: Any, context: Any) -> Any:
        """See the proto."""
        with self._call("Verify", request, context):
            score = 0.2 if request.candidate.text == "wrong" else 0.9
            verdict = common_pb2.Verdict(
                accept=score > request.alpha,
                reason=common_pb2.VERDICT_REASON_SCORE,
                score=score,
                alpha=request.alpha,
                mass=1,
                rule=request.rule,
            )
            return verifier_pb2.VerifyResponse(verdict=verdict)

    async def Answer(self, request: Any, context: Any) -> Any:
        """See the protos."""
        response = await super().Answer(request, context)
        if "wrong" in request.context.steps:
            response.text = "41"
        return response


async def collected(parts: FakeServices, *questions: Question, **options: Any) -> Collected:
    values: dict[str, Any] = {
        "rule": Rule.TBVM,
        "rollouts": Rollouts(1, 0.7),
        "only_rollouts": False,
        "concurrency": 2,
        "on_question": lambda: None,
        **options,
    }
    async with gateway(parts) as running, AsyncClient(running.address) as client:
        return await collect(client, questions, **values)


def labels(found: Collected) -> list[tuple[int, str, float | None, bool | None]]:
    return [(one.index, one.text, one.score, one.right) for one in found.candidates]


WRONG_AT_1 = [(0, STEPS[0], 0.9, True), (1, "wrong", 0.2, False), (2, STEPS[2], 0.9, True)]


async def test_every_position_has_a_candidate_behind_the_targets_steps() -> None:
    found = await collected(parts := Judged(), Question(IMAGES, "?", "42", STEPS))
    assert labels(found) == WRONG_AT_1
    assert [one.prefix for one in found.candidates] == [STEPS[:0], STEPS[:1], STEPS[:2]]
    assert [one.own for one in found.candidates] == [True, False, True]
    assert (found.labelled_by, found.failed) == ({"steps": 1}, 0)
    assert {one.alpha for one in parts.requests["Verify"]} == {1.0}


async def test_without_steps_what_the_target_makes_of_a_step_labels_it() -> None:
    found = await collected(parts := Judged(), Question(IMAGES, "?", "42"))
    assert labels(found) == WRONG_AT_1
    assert found.labelled_by == {"rollouts": 1}
    # Only the step that is not the target's own was tried.
    (tried,) = [one for one in parts.requests["Generate"] if one.max_steps == 0]
    assert list(tried.context.steps[:2]) == [STEPS[0], "wrong"]
    assert tried.sampling.temperature == 0


async def test_several_rollouts_are_drawn_each_by_its_own_seed() -> None:
    await collected(parts := Judged(), Question(IMAGES, "?", "42"), rollouts=Rollouts(3, 0.5))
    drawn = [one.sampling for one in parts.requests["Generate"] if one.max_steps == 0]
    assert {one.temperature for one in drawn} == {0.5}
    assert len({one.seed for one in drawn}) == 3


async def test_without_an_answer_the_targets_own_is_right() -> None:
    found = await collected(Judged(), Question(IMAGES, "?", None))
    assert found.self_labelled == 1
    assert found.questions[0].answer == "42"
    assert labels(found) == WRONG_AT_1


async def test_a_question_that_the_target_fails_labels_nothing_by_rollouts() -> None:
    found = await collected(Judged(), Question(IMAGES, "?", "7"))
    assert found.failed == 1
    assert {one.right for one in found.candidates} == {None}


def candidate(**changes: Any) -> Candidate:
    values: dict[str, Any] = {
        "question": 0,
        "index": 1,
        "prefix": ("a",),
        "text": "b",
        "closes": True,
        "score": 0.5,
        "reason": "score",
        "own": False,
        **changes,
    }
    return Candidate(**values)


@pytest.mark.parametrize(
    ("changes", "right"),
    [
        ({}, True),
        ({"text": "c"}, False),
        ({"closes": False}, False),
        ({"index": 0, "prefix": (), "text": "a", "closes": False}, True),
        ({"prefix": ("x",)}, None),
        ({"index": 2, "prefix": ("a", "b")}, None),
    ],
)
def test_the_only_right_wording_labels_a_step(changes: dict[str, Any], right: bool | None) -> None:
    assert by_steps(Question((), "?", "1", ("a", "b")), candidate(**changes)) is right


def found(*, wrong_scores: float = 0.2, rule: Rule = Rule.TBVM) -> dict[str, Any]:
    """A report of a judge that gives right steps 0.9."""
    candidates = [
        candidate(question=number, score=0.9 if number % 3 else wrong_scores).labelled(number % 3 > 0)
        for number in range(60)
    ]
    candidates.append(candidate(score=None, reason="low_mass").labelled(True))
    gathered = Collected(
        [Question((), "?", "1")] * 60, candidates, {"rollouts": 60}, self_labelled=0, failed=0, degraded=0
    )
    answers = {policy: Answer.of(session(policy, seed=1)) for policy in ("target", "fpsr")}
    measured = {
        name: Measured([Sample(True, seconds, answers[name.partition(":")[0]], None)] * 8, 8 * seconds)
        for name, seconds in (("target", 2.0), ("fpsr:0.5", 1.0), ("fpsr:0.9", 1.25))
    }
    return report(gathered, measured, rule=rule, alphas=[0.5, 0.9], tolerance=0.005, pair="bundled", seed=1)


def test_a_report_says_all_that_is_documented(tmp_path: Path) -> None:
    made = found()
    assert (made["steps"]["right"], made["steps"]["wrong"]) == (41, 20)
    assert made["steps"]["auc"]["value"] == pytest.approx((40 * 20) / (41 * 20))
    by_alpha = {point["alpha"]: point for point in made["steps"]["by_alpha"]}
    assert by_alpha[0.5]["precision"]["value"] == 1
    assert by_alpha[0.5]["recall"]["value"] == pytest.approx(40 / 41)
    assert by_alpha[0.1]["precision"]["value"] == pytest.approx(40 / 60)
    assert by_alpha[0.9]["accepted"] == 0
    assert [one["alpha"] for one in made["by_alpha"]] == [0.5, 0.9]
    assert made["by_alpha"][0]["speedup"]["value"] == pytest.approx(2)
    assert made["choice"]["alpha"] == 0.5
    assert not made["warnings"]
    assert len(tables(made)) == 2
    assert [path.name for path in draw(made, tmp_path)] == ["roc.svg", "alpha.svg", "pareto.svg"]
    assert "<!-- 0.5 (chosen) -->" in (tmp_path / "pareto.svg").read_text()


def test_the_digit_accepts_a_score_that_is_alpha() -> None:
    by_alpha = {point["alpha"]: point for point in found(rule=Rule.DIGIT)["steps"]["by_alpha"]}
    assert by_alpha[0.9]["accepted"] == pytest.approx(40 / 61)


def test_a_judge_that_scores_everything_alike_is_warned_of() -> None:
    (warning,) = found(wrong_scores=0.9)["warnings"]
    assert "a judge that cannot judge" in warning


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return Path(shutil.copy(MODELS / "bundled.toml", tmp_path / "pair.toml"))


def test_alpha_is_written_and_nothing_else(settings: Path) -> None:
    before = settings.read_text().splitlines()
    write_alpha(settings, Rule.TBVM, 0.125)
    after = settings.read_text().splitlines()
    ((old, new),) = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert (old.partition(" = ")[0], new) == ("alpha", "alpha = 0.125")
    assert Pair.load(settings).tbvm.alpha == 0.125
    assert [path.name for path in settings.parent.iterdir()] == ["pair.toml"]


def test_an_alpha_that_was_left_to_the_default_is_added(settings: Path) -> None:
    write_alpha(settings, Rule.DIGIT, 0.75)
    digit = Pair.load(settings).digit
    assert digit
    assert digit.alpha == 0.75


@pytest.mark.parametrize(("text", "problem"), [("name = 1\n", "no section"), ("[", "no section")])
def test_a_file_that_is_no_pairs_is_left_alone(settings: Path, text: str, problem: str) -> None:
    settings.write_text(text)
    with pytest.raises(ValueError, match=problem):
        write_alpha(settings, Rule.TBVM, 0.5)
    assert settings.read_text() == text


def test_a_file_that_would_not_load_is_left_alone(settings: Path) -> None:
    before = settings.read_text()
    with pytest.raises(ValueError, match="alpha"):
        write_alpha(settings, Rule.TBVM, 1.5)
    assert settings.read_text() == before
    assert [path.name for path in settings.parent.iterdir()] == ["pair.toml"]
