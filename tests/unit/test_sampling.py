"""Choosing tokens, and the parameters that say how."""

import json

import pytest
import torch

from models.backends.transformers.errors import InvalidRequestError
from models.backends.transformers.sampling import Sampler, SamplingParams, token_logprobs

LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.3, 0.15]))


def parse(**values: object) -> SamplingParams:
    return SamplingParams.parse(json.dumps(values), max_model_len=100, max_logprobs=20)


def draws(count: int, **values: object) -> list[int]:
    sampler = Sampler(parse(seed=3, **values))
    return [sampler.sample(LOGITS) for _ in range(count)]


def test_greedy_takes_the_likeliest_and_never_a_forbidden_one() -> None:
    assert set(draws(5, temperature=0)) == {1}
    assert Sampler(parse(temperature=0)).sample(LOGITS, frozenset({1})) == 2


def test_draws_follow_the_distribution() -> None:
    found = draws(4000)
    for token, share in enumerate(LOGITS.exp().tolist()):
        assert found.count(token) / 4000 == pytest.approx(share, abs=0.04)


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert set(draws(200, top_k=2)) == {1, 2}
    assert set(draws(200, top_p=0.4)) == {1}
    assert set(draws(200, top_p=0.6)) == {1, 2}
    assert set(draws(400, top_k=-1)) == {0, 1, 2, 3}


def test_a_seed_repeats() -> None:
    assert draws(50) == draws(50)


def test_logprobs_hold_the_token_first_then_the_likeliest() -> None:
    found = token_logprobs(LOGITS, 0, 2)
    assert [(token, rank) for token, _, rank in found.entries] == [(0, 4), (1, 1), (2, 2)]
    assert [value for _, value, _ in found.entries] == pytest.approx(LOGITS[[0, 1, 2]].tolist())
    assert [token for token, _, _ in token_logprobs(LOGITS, 1, 2).entries] == [1, 2]
    assert len(token_logprobs(LOGITS, 0, 0).entries) == 1
    assert len(token_logprobs(LOGITS, 0, 20).entries) == 4


def test_nan_is_an_error_not_a_score() -> None:
    with pytest.raises(ArithmeticError):
        token_logprobs(torch.tensor([float("nan"), 0.0]), 1, 1)


def test_parameters_take_vllms_names_and_defaults() -> None:
    assert parse() == SamplingParams()
    assert parse(stop="x").stop == ("x",)
    assert parse(temperature="0.5", max_tokens="7") == SamplingParams(temperature=0.5, max_tokens=7)
    assert parse(max_tokens=1, logprobs=5).is_scoring
    assert not parse(max_tokens=1).is_scoring


def test_an_answer_ends_where_the_context_does() -> None:
    assert parse(max_tokens=4096).max_tokens == 100


def test_what_changes_nothing_may_be_said() -> None:
    assert parse(n=1, skip_special_tokens=True, repetition_penalty=1.0, stop=None) == parse()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens must be a whole number from 0 to 5"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"stop": ["a"] * 17}, "at most 16"),
        ({"stop": ["a" * 257]}, "256 characters"),
        ({"ignore_eos": 1}, "ignore_eos"),
        ({"n": 2}, "unknown key `n`"),
        ({"presence_penalty": 0.5}, "unknown key `presence_penalty`"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        parse(**values)
