import random
from dataclasses import replace

import pytest

from services.gateway.costs import Costs, best
from services.gateway.governor import ENOUGH, Governor, SessionGovernor
from services.gateway.messages import Author, StartDraft, StartRival, Verdict
from services.gateway.policy import EXACT, FPSR
from services.gateway.speculation import Speculation
from services.gateway.token_time import TokenTime

GPU = Costs(
    base=0.048,
    share=0.0001,
    verdict=0.02,
    draft=0.2,
    verdict_tokens=2.0,
    verdicts=1.3,
    step_tokens=45,
)
SERIAL = replace(GPU, base=0.002, share=0.0005, verdict=0.009, draft=0.012, verdict_tokens=4, step_tokens=20)


def chosen(costs: Costs, sessions: int, acceptance: float) -> Speculation:
    seconds = best(costs, sessions, acceptance, 4)
    return min(seconds, key=seconds.__getitem__)


def test_alone_a_position_takes_its_tokens_and_sessions_share_an_iteration() -> None:
    assert GPU.alone(1) == pytest.approx(45 * 0.0481)
    assert GPU.alone(64) == pytest.approx(45 * 0.0544)


def test_without_verdict_time_the_model_is_that_of_lookahead_reasoning() -> None:
    # S = 1 / (c + (1 - c)(1 - a)) for a deep window: there a rejected position costs a draft step more.
    for acceptance in (0.3, 0.526, 0.9):
        costs = replace(GPU, share=0.0, verdict=0.0, verdict_tokens=0.0)
        ratio = costs.alone(1) / costs.speculating(Speculation.AFTER_REJECT, 1, acceptance, 1000)
        share = costs.draft / costs.alone(1)
        assert ratio == pytest.approx(1 / (share + (1 - acceptance)))
        full = costs.alone(1) / costs.speculating(Speculation.FULL, 1, acceptance, 1000)
        assert full == pytest.approx(1 / (share + (1 - share) * (1 - acceptance)))


def test_a_busy_target_slows_what_it_is_asked_for() -> None:
    seconds = [GPU.speculating(Speculation.FULL, sessions, 0.5, 4) for sessions in (1, 4, 16, 64, 256)]
    assert seconds == sorted(seconds)
    # All verdicts pass through the target.
    assert seconds[-1] >= 256 * GPU.verdicts * GPU.verdict
    stretches = [GPU.stretch(sessions, 0.5, 4) for sessions in (1, 4, 16, 64)]
    assert stretches == sorted(stretches)
    assert 0 <= stretches[0] < 0.1 < stretches[-1] < 1


def test_the_level_falls_with_load_and_with_acceptance() -> None:
    assert chosen(GPU, 1, 0.526) is Speculation.FULL
    assert chosen(GPU, 256, 0.526) is Speculation.NONE
    # On a target that computes one thing at a time a rival is in the way of the verdicts.
    assert chosen(SERIAL, 1, 0.9) is Speculation.AFTER_REJECT
    assert chosen(replace(GPU, draft=4.0), 1, 0.526) is Speculation.NONE


def test_token_times_are_taken_apart() -> None:
    chance, times = random.Random(1), TokenTime()
    for _ in range(400):
        decoding, verdicts = chance.uniform(1, 32), chance.uniform(0, 0.5)
        seconds = (0.048 + 0.0002 * decoding + 0.02 * verdicts) * chance.uniform(0.98, 1.02)
        times.observe(seconds, decoding, verdicts)
    base, share, verdict = times.fit()
    assert (base, share, verdict) == pytest.approx((0.048, 0.0002, 0.02), rel=0.15)


def test_what_never_changed_explains_nothing() -> None:
    times = TokenTime()
    for _ in range(20):
        times.observe(0.05, 1, 0)
    base, share, verdict = times.fit()
    assert base + share == pytest.approx(0.05)
    assert share < 0.01
    assert verdict == 0


def test_no_cost_is_negative() -> None:
    times = TokenTime()
    for decoding in range(1, 30):
        times.observe(0.05 / decoding, decoding, 0.1 * (decoding % 3))
    assert min(times.fit()) >= 0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def reason(governor: SessionGovernor, clock: Clock, steps: int, *, accepted: bool) -> None:
    """Steps of 40 tokens: drafted in 0.2 s, judged in 0.1 s, written by the target in 2 s."""
    for index in range(steps):
        draft, rival = StartDraft(1, index, (), 1), StartRival(2, index, ())
        governor.began(draft)
        governor.began(rival)
        clock.now += 0.2
        governor.wrote(draft, 40, 0.2)
        governor.ended(draft)
        clock.now += 0.1
        governor.judged(0.1)
        clock.now += 1.7
        governor.wrote(rival, 40, 2.0)
        governor.ended(rival)
        governor.committed(Author.DRAFT if accepted else Author.TARGET, 40, Verdict(accept=accepted))


def test_it_speculates_until_it_knows_enough() -> None:
    clock = Clock()
    governor = Governor(clock)
    session = governor.session(FPSR)
    reason(session, clock, ENOUGH - 1, accepted=False)
    assert governor.costs() is None
    reason(session, clock, 2, accepted=False)
    costs = governor.costs()
    assert costs is not None
    assert costs.alone(1) == pytest.approx(2.0, rel=0.1)
    assert costs.draft == pytest.approx(0.2)
    assert costs.verdicts == 1


def test_a_session_whose_drafts_are_rejected_stops_drafting_and_others_go_on() -> None:
    clock = Clock()
    governor = Governor(clock)
    good = governor.session(FPSR)
    reason(good, clock, 40, accepted=True)
    bad = governor.session(FPSR)
    assert bad.level() is not Speculation.NONE
    for _ in range(60):
        # Together longer than the target's own step, but not one behind the other.
        governor.draft.add(1.0)
        governor.verdict_tokens.add(1.5 / governor.token.value)
        bad.committed(Author.TARGET, 40, Verdict(accept=False))
        good.committed(Author.DRAFT, 40, Verdict(accept=True))
    assert bad.level() is Speculation.NONE
    assert good.level() is not Speculation.NONE


def test_a_session_comes_back_when_load_falls() -> None:
    clock = Clock()
    governor = Governor(clock)
    one = governor.session(FPSR)
    reason(one, clock, 40, accepted=True)
    assert one.level() is not Speculation.NONE
    governor.draft.value = 100.0
    assert one.level() is Speculation.NONE
    governor.draft.value = 0.2
    assert one.level() is not Speculation.NONE


def test_some_sessions_probe_and_ungoverned_policies_are_left_alone() -> None:
    clock = Clock()
    governor = Governor(clock)
    reason(governor.session(FPSR), clock, 40, accepted=True)
    governor.draft.value = 100.0
    levels = [governor.session(FPSR).level() for _ in range(32)]
    assert levels.count(Speculation.NONE) == 30
    assert governor.session(EXACT).level() is Speculation.FULL


def test_what_decodes_at_the_same_time_is_counted_and_a_session_leaves_nothing_behind() -> None:
    clock = Clock()
    governor = Governor(clock)
    one, other = governor.session(FPSR), governor.session(FPSR)
    first, second = StartRival(1, 0, ()), StartRival(1, 0, ())
    one.began(first)
    other.began(second)
    clock.now = 1.0
    other.ended(second)
    clock.now = 2.0
    assert governor.mark().decoded == pytest.approx(3.0)
    one.close()
    other.close()
    clock.now = 9.0
    assert governor.mark().decoded == pytest.approx(3.0)
    assert governor.sessions == 0
