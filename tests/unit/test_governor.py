"""The cost model, what it is fed with, and the decisions that come of it."""

import random
from dataclasses import replace

import numpy as np
import pytest

from services.gateway.costs import Costs, offer
from services.gateway.governor import ENOUGH, PROBE_EVERY, Governor, SessionGovernor
from services.gateway.messages import Author, Reason, StartAnswer, StartDraft, StartRival, Verdict
from services.gateway.policy import EXACT, FPSR, TARGET
from services.gateway.speculation import Speculation
from services.gateway.token_time import TokenTime

GPU = Costs(
    base=0.048,
    share=0.0001,
    verdict=0.02,
    start=0.0,
    draft=0.2,
    verdict_tokens=2.0,
    verdicts=1.3,
    step_tokens=45,
)
SERIAL = replace(GPU, base=0.002, share=0.0005, verdict=0.009, draft=0.012, verdict_tokens=4, step_tokens=20)
FULL, AFTER_REJECT, NONE = Speculation


def chosen(costs: Costs, sessions: int, acceptance: float) -> Speculation:
    found = offer(costs, sessions, acceptance, 4)
    return found.level if found.seconds < found.alone else NONE


def test_alone_a_position_takes_its_tokens_and_sessions_share_an_iteration() -> None:
    assert GPU.alone(1) == pytest.approx(45 * 0.0481)
    assert GPU.alone(64) == pytest.approx(45 * 0.0544)


def test_without_verdict_time_the_model_is_that_of_lookahead_reasoning() -> None:
    # S = 1 / (c + (1 - c)(1 - a)) for a deep window: there a rejected position costs a draft step more.
    for acceptance in (0.3, 0.526, 0.9):
        costs = replace(GPU, share=0.0, verdict=0.0, verdict_tokens=0.0)
        ratio = costs.alone(1) / costs.speculating(AFTER_REJECT, 1, acceptance, 1000)
        share = costs.draft / costs.alone(1)
        assert ratio == pytest.approx(1 / (share + (1 - acceptance)))
        full = costs.alone(1) / costs.speculating(FULL, 1, acceptance, 1000)
        assert full == pytest.approx(1 / (share + (1 - share) * (1 - acceptance)))


def test_with_a_window_of_one_nothing_is_drafted_while_a_verdict_is_pending() -> None:
    costs = replace(GPU, share=0.0, verdict=0.0)
    verdict = 2.0 * 0.048
    assert costs.speculating(AFTER_REJECT, 1, 1.0, 1) == pytest.approx(0.2 + verdict)
    assert costs.speculating(AFTER_REJECT, 1, 1.0, 2) == pytest.approx(0.2)


def test_where_the_target_writes_behind_rejects_it_decodes_for_those_only() -> None:
    for costs in (GPU, SERIAL, replace(GPU, share=0.0014)):
        for sessions in (1, 16, 64):
            seconds = costs.speculating(AFTER_REJECT, sessions, 0.6, 4)
            busy = costs._busy(sessions, seconds)
            decoding = costs._decoding(sessions, 0.4, seconds, busy)
            step = costs.step_tokens * (costs.base + costs.share * decoding) / (1 - busy)
            assert decoding == pytest.approx(min(sessions, sessions * 0.4 * step / seconds), rel=1e-3)


def test_a_busy_target_slows_what_it_is_asked_for() -> None:
    seconds = [GPU.speculating(FULL, sessions, 0.5, 4) for sessions in (1, 4, 16, 64, 256)]
    assert seconds == sorted(seconds)
    # All verdicts pass through the target.
    assert seconds[-1] >= 256 * GPU.verdicts * GPU.verdict


def test_the_level_falls_with_load_and_with_acceptance() -> None:
    assert chosen(GPU, 1, 0.526) is FULL
    assert chosen(GPU, 256, 0.526) is NONE
    # On a target that computes one thing at a time a rival is in the way of the verdicts.
    assert chosen(SERIAL, 1, 0.9) is AFTER_REJECT
    assert chosen(replace(GPU, draft=4.0), 1, 0.526) is NONE
    # Where most is rejected anyway, rivals are worth what they take.
    assert chosen(SERIAL, 1, 0.5) is FULL


def test_token_times_are_taken_apart() -> None:
    chance, times = random.Random(1), TokenTime()
    for _ in range(400):
        decoding, verdicts = chance.uniform(1, 32), chance.uniform(0, 0.5)
        seconds = (0.048 + 0.0002 * decoding + 0.02 * verdicts) * chance.uniform(0.98, 1.02)
        times.observe(seconds, decoding, verdicts)
    assert times.fit() == pytest.approx((0.048, 0.0002, 0.02), rel=0.15)


def test_a_load_that_hardly_changes_is_taken_apart_with_time() -> None:
    times = TokenTime()
    for decoding in np.random.default_rng(1).normal(64, 3, 5_000):
        times.observe(0.0336 + 0.0014 * decoding, decoding, 0.0)
    assert times.fit()[1] == pytest.approx(0.0014, rel=0.35)


def test_what_never_changed_explains_nothing() -> None:
    times = TokenTime()
    for _ in range(20):
        times.observe(0.05, 1, 0)
    base, share, verdict = times.fit()
    assert base + share == pytest.approx(0.05)
    assert share < 0.01
    assert verdict == 0


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_observed_the_base_is_positive_and_no_cost_negative(seed: int) -> None:
    chance, times = random.Random(seed), TokenTime()
    for _ in range(8):
        verdicts = chance.choice((0.0, chance.uniform(0.02, 0.3)))
        times.observe(chance.uniform(0.001, 0.1) ** 2 + verdicts * 0.3, chance.uniform(1, 4), verdicts)
    base, share, verdict = times.fit()
    assert base > 0
    assert min(share, verdict) >= 0
    found = offer(replace(GPU, base=base, share=share, verdict=verdict), 4, 0.5, 4)
    assert found.seconds > 0


class Cluster:
    """Steps of 40 tokens: drafted in 0.2 s, judged in 0.1 s, written by the target in 2 s behind 0.3 s."""

    def __init__(self) -> None:
        self.now = 100.0
        self.governor = Governor()

    def reason(self, session: SessionGovernor, steps: int, *, accepted: bool) -> None:
        for index in range(steps):
            rival = StartRival(1, index, ())
            session.began(rival, self.now)
            session.drafted(0.2)
            session.judged(0.1)
            session.progressed(rival, 1, self.now + 0.3)
            session.progressed(rival, 40, self.now + 0.3 + 0.05 * 39)
            self.now += 2.3
            session.ended(rival, self.now)
            session.committed(
                Author.DRAFT if accepted else Author.TARGET, 40, Verdict(accept=accepted, reason=Reason.SCORE)
            )


def test_it_speculates_until_it_knows_enough() -> None:
    cluster = Cluster()
    with cluster.governor.session(FPSR) as session:
        cluster.reason(session, ENOUGH - 1, accepted=False)
        assert cluster.governor.costs() is None
        assert session.level() is FULL
        # Before the first token is known, a verdict has nothing to be measured in.
        cluster.reason(session, 2, accepted=False)
        costs = cluster.governor.costs()
    assert costs is not None
    assert costs.alone(1) == pytest.approx(2.0, rel=0.1)
    assert costs.start == pytest.approx(0.3)
    assert costs.draft == pytest.approx(0.2)
    assert costs.verdicts == 1


def test_a_session_whose_drafts_are_rejected_stops_drafting_and_others_go_on() -> None:
    cluster = Cluster()
    governor = cluster.governor
    with governor.session(FPSR) as good, governor.session(FPSR) as bad:
        cluster.reason(good, ENOUGH + 1, accepted=True)
        assert bad.level() is not NONE
        for _ in range(60):
            # Together longer than the target's own step, but not one behind the other.
            governor.draft.add(1.0)
            governor.verdict_tokens.add(1.5 / governor.token.value)
            bad.committed(Author.TARGET, 40, Verdict(accept=False))
            good.committed(Author.DRAFT, 40, Verdict(accept=True))
        assert bad.level() is NONE
        assert good.level() is not NONE


def test_it_comes_back_when_that_promises_enough_and_not_before() -> None:
    cluster = Cluster()
    governor = cluster.governor
    with governor.session(FPSR) as session:
        cluster.reason(session, ENOUGH + 1, accepted=True)
        alone = governor.costs()
        assert alone is not None
        seconds = alone.alone(1)
        governor.draft.value = seconds * 1.01
        assert session.level() is NONE
        governor.draft.value = seconds * 0.98
        assert session.level() is NONE
        governor.draft.value = seconds * 0.9
        assert session.level() is not NONE
        governor.draft.value = seconds * 0.98
        assert session.level() is not NONE


def test_a_verifier_that_is_down_says_nothing_of_the_draft() -> None:
    cluster = Cluster()
    with cluster.governor.session(FPSR) as session:
        cluster.reason(session, ENOUGH + 1, accepted=True)
        for _ in range(50):
            session.committed(Author.TARGET, 40, Verdict(accept=False, reason=Reason.UNAVAILABLE))
        assert cluster.governor.acceptance.value == 1


def test_now_and_then_a_position_is_tried_and_ungoverned_policies_are_left_alone() -> None:
    cluster = Cluster()
    governor = cluster.governor
    with governor.session(FPSR) as one, governor.session(FPSR) as other:
        cluster.reason(one, ENOUGH + 1, accepted=True)
        governor.draft.value = 100.0
        levels = [session.level() for _ in range(PROBE_EVERY) for session in (one, other)]
        assert levels.count(NONE) == len(levels) - 2
    with governor.session(TARGET) as target, governor.session(EXACT) as exact:
        assert target.level() is NONE
        assert exact.level() is FULL


def test_what_decodes_at_the_same_time_is_counted_and_a_session_leaves_nothing_behind() -> None:
    governor = Governor()
    first, answer, draft = StartRival(1, 0, ()), StartAnswer(2, ()), StartDraft(3, 0, (), 1)
    with governor.session(FPSR) as one, governor.session(FPSR) as other:
        start = governor.moment(100.0).decoded
        one.began(first, 100.0)
        one.began(draft, 100.0)
        other.began(answer, 100.0)
        other.ended(answer, 101.0)
        assert governor.moment(102.0).decoded - start == pytest.approx(3.0)
    assert governor.moment(110.0).decoded == governor.moment(109.0).decoded
    assert governor.sessions == 0


def test_a_session_that_fails_is_over_for_the_governor() -> None:
    governor = Governor()
    with pytest.raises(ZeroDivisionError), governor.session(FPSR):
        raise ZeroDivisionError
    assert governor.sessions == 0
