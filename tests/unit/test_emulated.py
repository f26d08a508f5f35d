"""The emulated pair: what it says, and how long it takes, without a clock."""

from pathlib import Path

import pytest

from models.backends.emulated.blocks import BLOCK
from models.backends.emulated.profile import Profile, ProfileError
from models.backends.emulated.runner import EmulatedEncoder, EmulatedRunner, EmulatedState
from models.backends.emulated.script import Asked, Script
from models.backends.emulated.words import ASTRAY, IDS, PIECES, SOUND, ids_of, text_of
from services.common.pair import Pair
from services.common.prompts import Prompts

MODELS = Path("models")
PROFILES = sorted((MODELS / "emulated" / "profiles").glob("*.toml"))
PROFILE = Profile.load(PROFILES[0])
PAIR = Pair.load(MODELS / "emulated" / "pair.toml")
PROMPTS = Prompts(PAIR.target.template, PAIR.reasoning)


def said(role: str, question: str, steps: list[str]) -> list[str]:
    """All steps that a model writes from here on."""
    script = Script("draft" if role == "draft" else "target", PROFILE.behaviour)
    asked = Asked.of(PROMPTS.reasoning(question, 0, steps))
    text = "".join(piece for piece, _ in script.reply(asked))
    return text.partition("\n</think>")[0].split("\n\n")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_names_its_source(path: Path) -> None:
    profile = Profile.load(path)
    assert profile.name == path.stem
    assert len(profile.source) > 100


def test_a_profile_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PROFILES[0].read_text().replace("iteration_ms", "iteration", 1))
    with pytest.raises(ProfileError, match="iteration"):
        Profile.load(path)


def test_the_targets_steps_do_not_depend_on_who_asked_for_them_when() -> None:
    whole = said("target", "what ?", [])
    low, high = PROFILE.behaviour.steps
    assert low <= len(whole) <= high
    for index in range(1, len(whole)):
        assert said("target", "what ?", whole[:index]) == whole[index:]
    assert said("target", "what else ?", []) != whole


def test_the_draft_is_accepted_as_often_as_the_profile_says() -> None:
    steps = [step for number in range(400) for step in said("draft", f"question {number} ?", [])]
    sound = sum(SOUND in step for step in steps) / len(steps)
    assert sound == pytest.approx(PROFILE.behaviour.acceptance, abs=0.04)
    assert all((SOUND in step) != (ASTRAY in step) for step in steps)


@pytest.mark.parametrize(("step", "word"), [("w1 sound", "positive"), ("w1 astray", "negative")])
def test_the_judge_sees_the_mark(step: str, word: str) -> None:
    judged = PROMPTS.judge("what ?", 0, ["w2 sound"], step, False, PAIR.tbvm.instruction)
    first, share = next(Script("target", PROFILE.behaviour).reply(Asked.of(judged)))
    assert (first, share) == (word, 0.95)


def test_text_becomes_tokens_and_back() -> None:
    text = " w1 w20 sound\n\n w3 astray\n</think>\n\n"
    assert text_of(ids_of(text)) == text
    assert ids_of("unknown word") != ids_of("unknown work")


class Clock:
    """Adds up what the runner would sleep; time passes by itself as well."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.time = 100.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.time += seconds

    def now(self) -> float:
        return self.time


def opened(runner: EmulatedRunner, text: str) -> EmulatedState:
    return runner.open(EmulatedEncoder(0).encode(text, ()), 10)


def test_an_iteration_is_paid_for_once_and_a_cached_prefix_costs_nothing() -> None:
    clock, latency = Clock(), PROFILE.target
    runner = EmulatedRunner(latency, Script("target", PROFILE.behaviour), 10_000, clock.sleep, clock.now)
    text = PROMPTS.reasoning("word " * 100, 0, [])
    first, second = opened(runner, text), opened(runner, text)
    runner.begin_iteration()
    tokens = len(first.prompt.ids)
    assert runner.prefill(first, 10_000)[0] == tokens
    once = latency.iteration_ms / 1000 + tokens / latency.prefill_tokens_per_second
    assert clock.seconds == pytest.approx(once)
    runner.prefill(second, 10_000)
    assert clock.seconds == pytest.approx(once + tokens / latency.prefill_tokens_per_second)
    runner.share(first, first.prompt.key)
    again = opened(runner, text)
    assert again.length == (tokens - 1) // BLOCK * BLOCK
    clock.seconds = 0.0
    runner.begin_iteration()
    logits = runner.decode([first, second], [0, 0])
    assert clock.seconds == pytest.approx((latency.iteration_ms + 2 * latency.sequence_ms) / 1000)
    assert not isinstance(logits[0], Exception)
    assert PIECES[int(logits[0].argmax())].startswith(" w")
    assert IDS[SOUND] != IDS[ASTRAY]


def test_the_engines_own_work_is_within_an_iterations_time_and_idling_is_not() -> None:
    clock, latency = Clock(), PROFILE.target
    runner = EmulatedRunner(latency, Script("target", PROFILE.behaviour), 10_000, clock.sleep, clock.now)
    runner.begin_iteration()
    state = opened(runner, PROMPTS.reasoning("word", 0, []))
    runner.prefill(state, 10_000)
    began, iteration = clock.time, (latency.iteration_ms + latency.sequence_ms) / 1000
    for _ in range(3):
        clock.time += iteration / 4
        runner.begin_iteration()
        runner.decode([state], [0])
    assert clock.time == pytest.approx(began + 3 * iteration)
    runner.close(state)
    clock.time += iteration / 4
    began = clock.time
    runner.begin_iteration()
    runner.prefill(opened(runner, PROMPTS.reasoning("word", 0, [])), 10_000)
    assert clock.time > began + latency.iteration_ms / 1000
