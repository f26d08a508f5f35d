"""TBVM: positive evidence must clearly dominate; whatever is missing or doubtful is a reject."""

import math

import pytest

from dreamr.v1 import common_pb2
from services.verifier.evidence import Token
from services.verifier.tbvm import Tbvm
from services.verifier.words import Words

RULE = Tbvm(Words("positive", "negative"), mass_floor=0.1)


def tokens(probabilities: dict[str, float]) -> list[Token]:
    return [Token(0, text, math.log(probability)) for text, probability in probabilities.items()]


def test_the_score_is_the_share_of_the_positive_word() -> None:
    verdict = RULE.judge(tokens({"positive": 0.6, "negative": 0.2, "maybe": 0.2}), alpha=0.7)
    assert verdict.accept
    assert verdict.score == pytest.approx(0.75)
    assert verdict.mass == pytest.approx(0.8)
    assert verdict.reason == common_pb2.VERDICT_REASON_SCORE


def test_a_score_equal_to_alpha_is_a_reject() -> None:
    assert not RULE.judge(tokens({"positive": 0.5, "negative": 0.5}), alpha=0.5).accept


def test_variants_of_a_word_add_up() -> None:
    verdict = RULE.judge(tokens({" Positive": 0.3, "\u0120positive": 0.2, "\u2581NEGATIVE": 0.1}), alpha=0.7)
    assert verdict.p_pos == pytest.approx(0.5)
    assert verdict.p_neg == pytest.approx(0.1)


def test_too_little_mass_is_a_reject_however_high_the_score() -> None:
    verdict = RULE.judge(tokens({"positive": 0.05, "the": 0.9}), alpha=0.1)
    assert verdict.score == 1
    assert not verdict.accept
    assert verdict.reason == common_pb2.VERDICT_REASON_LOW_MASS


def test_no_log_probabilities_is_a_reject() -> None:
    verdict = RULE.judge([], alpha=0.0)
    assert not verdict.accept
    assert verdict.reason == common_pb2.VERDICT_REASON_NO_LOGPROBS


@pytest.mark.parametrize("untrue", [math.nan, 1.0])
def test_log_probabilities_that_cannot_be_true_are_none(untrue: float) -> None:
    verdict = RULE.judge([Token(1, "positive", untrue), Token(2, "negative", -9.0)], alpha=0.0)
    assert not verdict.accept
    assert verdict.reason == common_pb2.VERDICT_REASON_NO_LOGPROBS
    assert (verdict.score, verdict.mass) == (0, 0)


def test_a_token_without_probability_counts_for_nothing() -> None:
    verdict = RULE.judge([Token(1, "positive", 0.0), Token(2, "negative", -math.inf)], alpha=0.9)
    assert verdict.accept
    assert (verdict.p_pos, verdict.p_neg) == (1, 0)
