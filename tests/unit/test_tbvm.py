"""TBVM: positive evidence must clearly dominate; whatever is missing or doubtful is a reject."""

import math

import pytest

from dreamr.v1 import common_pb2
from services.verifier.tbvm import Tbvm

RULE = Tbvm("positive", "negative", mass_floor=0.1)


def tokens(**probabilities: float) -> list[tuple[str, float]]:
    return [(text, math.log(probability)) for text, probability in probabilities.items()]


def test_the_score_is_the_share_of_the_positive_word() -> None:
    verdict = RULE.judge(tokens(positive=0.6, negative=0.2, maybe=0.2), alpha=0.7)
    assert verdict.accept
    assert verdict.score == pytest.approx(0.75)
    assert verdict.mass == pytest.approx(0.8)
    assert verdict.reason == common_pb2.VERDICT_REASON_SCORE


def test_a_score_equal_to_alpha_is_a_reject() -> None:
    assert not RULE.judge([("positive", math.log(0.5)), ("negative", math.log(0.5))], alpha=0.5).accept


def test_variants_of_a_word_add_up() -> None:
    verdict = RULE.judge(
        [(" Positive", math.log(0.3)), ("\u0120positive", math.log(0.2)), ("\u2581NEGATIVE", math.log(0.1))],
        alpha=0.7,
    )
    assert verdict.p_pos == pytest.approx(0.5)
    assert verdict.p_neg == pytest.approx(0.1)


def test_too_little_mass_is_a_reject_however_high_the_score() -> None:
    verdict = RULE.judge([("positive", math.log(0.05)), ("the", math.log(0.9))], alpha=0.1)
    assert verdict.score == 1
    assert not verdict.accept
    assert verdict.reason == common_pb2.VERDICT_REASON_LOW_MASS


def test_no_log_probabilities_is_a_reject() -> None:
    verdict = RULE.judge([], alpha=0.0)
    assert not verdict.accept
    assert verdict.reason == common_pb2.VERDICT_REASON_NO_LOGPROBS


def test_the_words_must_differ() -> None:
    with pytest.raises(ValueError, match="differ"):
        Tbvm("Yes", " yes", 0.1)
