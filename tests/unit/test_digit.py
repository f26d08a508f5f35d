"""SpecReason's digit: seven of nine is enough, by the mean or by the likeliest digit; doubt is a reject."""

import math

import pytest

from dreamr.v1 import common_pb2
from services.verifier.digit import Digit
from services.verifier.evidence import Token

EXPECTED = Digit(expected=True, mass_floor=0.1)
GREEDY = Digit(expected=False, mass_floor=0.1)
SEVEN = 7 / 9


def tokens(shares: dict[str, float]) -> list[Token]:
    return [Token(0, text, math.log(share)) for text, share in shares.items()]


def test_seven_itself_is_enough() -> None:
    assert EXPECTED.judge(tokens({"7": 1.0}), SEVEN).accept
    assert not EXPECTED.judge(tokens({"6": 1.0}), SEVEN).accept


def test_the_mean_and_the_likeliest_digit_may_disagree() -> None:
    shares = tokens({"8": 0.5, "0": 0.3, " 3": 0.2})
    assert not EXPECTED.judge(shares, SEVEN).accept
    assert GREEDY.judge(shares, SEVEN).accept
    assert EXPECTED.judge(shares, SEVEN).score == pytest.approx((8 * 0.5 + 3 * 0.2) / 9)
    assert GREEDY.judge(shares, SEVEN).score == pytest.approx(8 / 9)


def test_the_evidence_is_split_at_the_threshold() -> None:
    verdict = EXPECTED.judge(tokens({"9": 0.4, "7": 0.2, "1": 0.3, "well": 0.1}), SEVEN)
    assert verdict.p_pos == pytest.approx(0.6)
    assert verdict.p_neg == pytest.approx(0.3)
    assert verdict.mass == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("shares", "reason"),
    [({}, "VERDICT_REASON_NO_LOGPROBS"), ({"9": 0.05, "well": 0.9}, "VERDICT_REASON_LOW_MASS")],
)
def test_doubt_is_a_reject(shares: dict[str, float], reason: str) -> None:
    verdict = EXPECTED.judge(tokens(shares), SEVEN)
    assert not verdict.accept
    assert common_pb2.VerdictReason.Name(verdict.reason) == reason


def test_a_word_that_is_no_digit_counts_for_nothing() -> None:
    assert EXPECTED.judge(tokens({"12": 0.5, "\u00b2": 0.2, "9": 0.3}), SEVEN).mass == pytest.approx(0.3)
