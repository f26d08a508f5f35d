"""SAPO's parts: what a rollout is, what it is worth, which questions are asked, which checkpoint is best."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from bench.statistics import Estimate
from dreamr.cluster.versions import new_version, versions
from dreamr.v1 import common_pb2, verifier_pb2, verifier_pb2_grpc
from services.common.errors import BrokenError, InvalidRequestError
from services.common.pair import ReasoningSettings
from services.common.prompts import Prompts
from tests.tiny_model import make_tiny_model
from training import task
from training.sapo import ablation
from training.sapo import judge as judging
from training.sapo.credit import Rejected, credited
from training.sapo.drafts import begin, export, load_model, load_processor
from training.sapo.evaluation import Evaluation, best, keeps_accuracy
from training.sapo.judge import Judge
from training.sapo.questions import Question, bundled, from_file, order, split
from training.sapo.records import TOKENS, Records
from training.sapo.rewards import acceptance, length, outcome
from training.sapo.rollout import Rollout
from training.sapo.settings import SapoSettings
from training.task import HELD_OUT_EVERY, held_out

REASONING = ReasoningSettings()


def read(text: str, tokens: int = 10) -> Rollout:
    return Rollout.of(text, tokens, REASONING)


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("a\n\nb\n</think>\n\n7", [("a", ""), ("b", "closes")], "7"),
        ("a\n\n\n\nb</think>7", [("a", ""), ("b", "closes")], "7"),
        ("a\n\n</think>\n\n7", [("a", ""), ("", "closes")], "7"),
        ("</think>", [("", "closes")], ""),
        ("a\n\nb", [("a", ""), ("b", "truncated")], ""),
        ("a\n\n", [("a", "")], ""),
        ("", [], ""),
    ],
)
def test_a_rollout_is_told_apart_as_the_draft_service_does(
    text: str, steps: list[tuple[str, str]], answer: str
) -> None:
    rollout = read(text)
    marks = ("closes", "truncated")
    assert [
        (step.text, next((mark for mark in marks if getattr(step, mark)), "")) for step in rollout.steps
    ] == steps
    assert rollout.answer == answer


def test_blame_goes_to_the_rejected_step_and_praise_to_those_before_it() -> None:
    tokens = ["a", "\n\n", "bb", "b", "\n\n", "c", "</think>", "7"]
    text, ids = "".join(tokens), list(range(len(tokens)))
    rollout = read(text)
    assert [text[:end] for end in rollout.ends] == ["a\n\n", "a\n\nbbb\n\n", text[:-1]]

    def decode(some: Any) -> str:
        return "".join(tokens[one] for one in some)

    spans = [Rejected.of(rollout, accepted, ids, decode) for accepted in range(4)]
    assert spans == [Rejected(0, 2), Rejected(2, 5), Rejected(5, 7), None]
    found = credited(torch.tensor([1.0, -1.0, -1.0]), len(ids), [spans[1], spans[1], spans[3]])
    assert found.tolist() == [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, -1, -1, -1, 0, 0, 0], [-1] * 8]


def test_a_reward_for_the_answer_wants_closed_reasoning() -> None:
    assert outcome(read("a\n</think>\n\n7"), " 7 ") == 1
    assert outcome(read("a\n</think>\n\n8"), "7") == 0
    assert outcome(read("a\n\n7"), "7") == 0


def test_what_stands_behind_a_reject_is_not_accepted() -> None:
    rollout = read("a\n\nb\n\nc\n\nd\n</think>\n\n7")
    assert [acceptance(rollout, accepted) for accepted in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert acceptance(read(""), 0) == 0


def test_shorter_pays_for_right_answers_only() -> None:
    def reward(tokens: int, right: bool) -> float:
        return length(read("a\n</think>\n\n7", tokens), right, 100)

    assert reward(100, True) == 0
    assert reward(50, True) == 0.5
    assert reward(150, True) == reward(150, False) == -0.5
    assert reward(900, True) == -1
    for tokens in range(1, 400):
        assert reward(tokens, False) <= 0
        # Cutting a right chain to any other length, so that it is wrong, never pays.
        assert reward(tokens, False) <= max(reward(100, True), reward(tokens, True))


# --- verdicts --------------------------------------------------------------------------------------------


@dataclass
class Verifier(verifier_pb2_grpc.VerifierServiceServicer):
    """Accepts steps without an x; counts, and fails first as it is told."""

    reasons: list[Any] = field(default_factory=list)
    failures: list[grpc.StatusCode] = field(default_factory=list)
    asked: list[tuple[tuple[str, ...], str]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def Verify(self, request: Any, context: Any) -> Any:
        """See the proto."""
        if self.failures:
            await context.abort(self.failures.pop(0), "no")
        self.running += 1
        self.most = max(self.most, self.running)
        self.asked.append((tuple(request.context.steps), request.candidate.text))
        reason = self.reasons.pop(0) if self.reasons else common_pb2.VERDICT_REASON_SCORE
        self.running -= 1
        accept = "x" not in request.candidate.text and reason == common_pb2.VERDICT_REASON_SCORE
        return verifier_pb2.VerifyResponse(verdict={"accept": accept, "reason": reason})


@asynccontextmanager
async def judge_of(verifier: Verifier, at_once: int = 4) -> AsyncIterator[Judge]:
    server = grpc.aio.server()
    verifier_pb2_grpc.add_VerifierServiceServicer_to_server(verifier, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Judge(verifier_pb2_grpc.VerifierServiceStub(channel), alpha=None, at_once=at_once)
    finally:
        await server.stop(0)


QUESTION = Question("what ?", (b"image",), "7", 10)


async def test_steps_are_judged_up_to_the_first_reject_and_each_once() -> None:
    verifier = Verifier()
    rollouts = [read(text) for text in ("a\n\nb\n</think>\n\n7", "a\n\nx\n\nc\n</think>", "x\n\na\n</think>")]
    # Another question's steps are others, whatever they say.
    other = replace(QUESTION, images=(b"another",))
    async with judge_of(verifier, at_once=2) as judge:
        found = await judge.accepted([QUESTION, QUESTION, QUESTION, other], [*rollouts, rollouts[0]])
    assert found == [2, 1, 0, 2]
    assert sorted(verifier.asked) == sorted(
        [*[((), "a"), (("a",), "b")] * 2, (("a",), "x"), ((), "x")],
    )
    assert verifier.most <= 2


async def test_a_step_that_was_cut_off_is_not_asked_about() -> None:
    verifier = Verifier()
    async with judge_of(verifier) as judge:
        assert await judge.accepted([QUESTION], [read("a\n\nb")]) == [1]
    assert verifier.asked == [((), "a")]


async def test_a_late_judge_is_asked_again_and_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PAUSE_SECONDS", 0.001)
    late = common_pb2.VERDICT_REASON_LATE
    verifier = Verifier(reasons=[late, late], failures=[grpc.StatusCode.RESOURCE_EXHAUSTED])
    async with judge_of(verifier) as judge:
        assert await judge.accepted([QUESTION], [read("a\n</think>")]) == [1]
        verifier.reasons = [late] * 99
        with pytest.raises(BrokenError, match="no verdict in 5 attempts"):
            await judge.accepted([QUESTION], [read("a\n</think>")])
        verifier.reasons, verifier.failures = [], [grpc.StatusCode.INVALID_ARGUMENT]
        with pytest.raises(InvalidRequestError):
            await judge.accepted([QUESTION], [read("a\n</think>")])


# --- questions -------------------------------------------------------------------------------------------


def test_bundled_questions_are_the_same_again_and_never_of_held_out_handwriting() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again = bundled(6, seed=1), bundled(6, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == again
    validation = bundled(6, seed=1, validation=True)
    assert not {one.images for one in first} & {one.images for one in validation}
    tested = {one.png() for one in held_out(50, seed=1)}
    assert not {image for one in [*first, *validation] for image in one.images} & tested
    assert all(one.target_tokens and one.target_tokens > 30 for one in first)


def test_training_and_validation_share_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.sapo import questions as module

    drawn: list[set[int]] = []
    make = task.make

    def spy(rng: Any, grid: tuple[int, ...]) -> Any:
        drawn[-1].update(grid)
        return make(rng, grid)

    monkeypatch.setattr(module, "make", spy)
    for validation in (False, True):
        drawn.append(set())
        bundled(80, seed=2, validation=validation)
    assert not drawn[0] & drawn[1]
    assert not any(index % HELD_OUT_EVERY == 0 for pool in drawn for index in pool)


def test_questions_of_a_file_are_split_by_question(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    lines = [
        *({"question": f"{number} ?", "images": ["a.png"], "answer": number} for number in range(10)),
        {"question": "0 ?", "image": "a.png", "answer": 0, "target_tokens": 9},
        {"question": "text alone ?", "answer": "yes"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = from_file(file)
    assert (asked[0].images, asked[0].answer, asked[10].target_tokens, asked[11].images) == (
        (b"a",),
        "0",
        9,
        (),
    )
    training, validation = split(asked, 4, seed=1)
    assert not {one.text for one in training} & {one.text for one in validation}
    assert len(validation) == 4
    with pytest.raises(ValueError, match="none to train on"):
        split(asked, 12, seed=1)
    file.write_text('{"question": "?"}')
    with pytest.raises(ValueError, match=r"questions\.jsonl:1"):
        from_file(file)


def test_longer_orders_begin_alike_and_ask_each_question_once_a_round() -> None:
    assert order(5, 12, seed=1)[:7] == order(5, 7, seed=1)
    assert sorted(order(5, 10, seed=1)) == sorted([*range(5)] * 2)


# --- figures and the rule --------------------------------------------------------------------------------


def evaluation(step: int, speedup: float, difference: float, low: float, spread: float = 0.1) -> Evaluation:
    return Evaluation(
        step=step,
        questions=100,
        accuracy={"target": 0.97, "fpsr": 0.97 + difference},
        difference=Estimate(difference, (low, difference + 0.01)),
        speedup=Estimate(speedup, (speedup - spread, speedup + spread)),
        acceptance=0.9,
        tokens={"target": 150.0, "fpsr": 150.0},
        seconds={"target": 0.4, "fpsr": 0.2},
    )


def test_the_best_is_the_fastest_that_surely_keeps_the_accuracy() -> None:
    settings = SapoSettings(max_loss=0.005, margin=0.03)
    slow, fast = evaluation(0, 1.5, 0, -0.01), evaluation(100, 2.0, 0, -0.01)
    hacked = evaluation(200, 3.0, -0.02, -0.03)
    doubtful = evaluation(300, 2.5, 0, -0.05)
    lucky = evaluation(400, 2.1, 0, -0.01, spread=0.5)
    found = [slow, fast, hacked, doubtful, lucky]
    assert [keeps_accuracy(one, slow, settings) for one in found] == [True, True, False, False, True]
    assert best(found, settings) == fast
    assert best([hacked], settings) is None


def test_a_start_that_loses_accuracy_itself_is_the_measure() -> None:
    settings = SapoSettings(max_loss=0.005, margin=0.03)
    start, faster = evaluation(0, 1.5, -0.05, -0.08), evaluation(100, 2.0, -0.05, -0.08)
    worse, doubtful = evaluation(200, 3.0, -0.055, -0.07), evaluation(300, 3.0, -0.04, -0.09)
    assert best([start, faster, worse, doubtful], settings) == faster
    assert best([faster, worse, doubtful], settings) is None


def test_records_are_rewound_to_the_checkpoint_that_a_run_goes_on_from(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.rewind(0)
    assert (records.metrics(), records.evaluations()) == ([], [])
    for step in range(1, 6):
        records.note(step, {"reward": step / 2, "rewards/outcome/mean": 0.5, "something else": 1})
        records.add(evaluation(step, 1.5, 0, -0.01))
    records.rewind(3)
    assert records.metrics() == [{"step": step, "outcome": 0.5, "reward": step / 2} for step in (1, 2, 3)]
    assert records.evaluations() == [evaluation(step, 1.5, 0, -0.01) for step in (1, 2, 3)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 3, "group": 5, "micro": 4}, "micro: must divide"),
        ({"updates": 3, "evaluate_every": 10}, "must be a multiple of updates"),
        ({"outcome": 0, "acceptance": 0, "length": 0}, "must be above 0"),
        ({"group": 1}, "greater than or equal to 2"),
        ({"beta": 1}, "not permitted"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SapoSettings(**settings)


# --- drafts ----------------------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_version_that_is_the_draft_but_for_its_weights(tmp_path: Path) -> None:
    draft = make_tiny_model(tmp_path / "draft")
    begin(draft, tmp_path / "start")
    model = load_model(tmp_path / "start", adapters=False)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    model.save_pretrained(tmp_path / "checkpoint")
    export(tmp_path / "start", tmp_path / "checkpoint", tmp_path / "weights", "5 updates")
    repository = tmp_path / "repository" / "draft"
    (repository / "1" / "weights").mkdir(parents=True)
    (repository / "1" / "model.json").write_text('{"model": "somewhere", "max_num_seqs": 3}')
    assert new_version(repository, tmp_path / "weights") == repository / "2"
    assert versions(repository) == [1, 2]
    settings = json.loads((repository / "2" / "model.json").read_text())
    assert settings == {"model": "weights", "max_num_seqs": 3}
    exported = load_model(repository / "2" / "weights", adapters=False)
    processor = load_processor(repository / "2" / "weights")
    assert torch.equal(exported.lm_head.weight, model.lm_head.weight.bfloat16().float())
    assert json.loads((repository / "2" / "weights" / "training.json").read_text())["note"] == "5 updates"
    # What the learner's processor writes is what the services' prompts say.
    content = [{"type": "image"}, {"type": "text", "text": "what ?"}]
    written = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert written == Prompts(draft, REASONING).reasoning("what ?", 1, ())


def test_the_ablation_tells_what_is_over(tmp_path: Path) -> None:
    seeds = (0, 1)
    plan = ablation.planned(seeds)
    assert plan.index(((1, 1, 3), 0)) < plan.index(((1, 1, 1), 1))
    assert len(plan) == len(set(plan)) == 12
    for seed, steps in ((0, 150), (1, 150)):
        folder = tmp_path / f"1-1-1-seed-{seed}"
        folder.mkdir()
        (folder / "settings.json").write_text(json.dumps({"steps": steps}))
        Records(folder).add(evaluation(0, 1.5, 0, -0.01))
        Records(folder).add(evaluation(steps, 1.8 + seed / 10, (0, -0.01)[seed], -0.02))
    unfinished = tmp_path / "1-0-0-seed-0"
    unfinished.mkdir()
    (unfinished / "settings.json").write_text('{"steps": 150}')
    Records(unfinished).add(evaluation(0, 1.5, 0, -0.01))
    rows = ablation.rows_of(tmp_path, seeds)
    assert [row.weights for row in rows] == [(1, 1, 1)]
    text = ablation.table(rows)
    assert "| 1 : 1 : 1 | 2 | 90.0% (90.0% to 90.0%) | -0.5% (-1.0% to +0.0%) | 1.85 (1.80 to 1.90)" in text
    assert "| the draft as it was | | 90.0% | +0.0% | 1.50 | 150.0 |" in text


def test_a_run_of_the_ablation_is_given_what_another_has_asked(tmp_path: Path) -> None:
    first, same, other = (tmp_path / f"{name}" for name in ("1-0-0-seed-0", "0-1-0-seed-0", "1-1-1-seed-1"))
    for folder in (first, same, other):
        folder.mkdir()
    ablation.share(tmp_path, first, 0, (0, 1))
    assert list(first.iterdir()) == []
    Records(first).add(evaluation(0, 1.5, 0, -0.01))
    Records(first).add(evaluation(150, 1.8, 0, -0.01))
    (first / TOKENS).write_text("[7]")
    for folder, seed in ((same, 0), (other, 1)):
        ablation.share(tmp_path, folder, seed, (0, 1))
        assert Records(folder).evaluations() == Records(first).evaluations()[:1]
    assert (same / TOKENS).read_text() == "[7]"
    assert not (other / TOKENS).exists()  # another seed's questions
