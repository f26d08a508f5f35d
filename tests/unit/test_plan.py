"""Every field of a request is checked; the message names it and its limit."""

from pathlib import Path

import pytest

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.errors import InvalidRequestError
from services.common.pair import Pair
from services.gateway.plan import Plan
from services.gateway.rule import Rule

PAIR = Pair.load(Path("models/bundled.toml"))
IMAGE = common_pb2.Image(data=b"x")
Options = gateway_pb2.ReasonOptions


def request(
    question: str = "q", images: int = 1, options: gateway_pb2.ReasonOptions | None = None
) -> gateway_pb2.ReasonRequest:
    return gateway_pb2.ReasonRequest(question=question, images=[IMAGE] * images, options=options)


def test_defaults_come_from_the_pair() -> None:
    plan = Plan.of(request(), PAIR)
    assert plan.policy.name == "fpsr"
    assert plan.policy.window == 4
    assert plan.alpha == PAIR.tbvm.alpha
    assert plan.max_steps == PAIR.reasoning.max_steps


def test_options_win() -> None:
    plan = Plan.of(request(options=Options(window=2, alpha=0.9, max_steps=3)), PAIR)
    assert (plan.policy.window, plan.alpha, plan.max_steps) == (2, 0.9, 3)


@pytest.mark.parametrize(
    ("policy", "wanted", "governed"),
    [
        ("fpsr", None, True),
        ("fpsr", False, False),
        ("exact", None, False),
        ("specreason", True, True),
        ("exact", True, False),
        ("target", True, False),
    ],
)
def test_a_request_says_whether_it_is_governed(policy: str, wanted: bool | None, governed: bool) -> None:
    plan = Plan.of(request(options=Options(policy=policy, governor=wanted)), PAIR)
    assert plan.policy.governed is governed
    assert plan.options().governor is governed


@pytest.mark.parametrize("policy", ["fpsr", "specreason"])
def test_a_request_chooses_the_rule(policy: str) -> None:
    options = Options(policy=policy, rule=common_pb2.VERIFICATION_RULE_CASCADE)
    plan = Plan.of(request(options=options), PAIR)
    assert plan.policy.rule is Rule.CASCADE
    assert plan.alpha == PAIR.tbvm.alpha
    # Whoever takes the session over goes on by the same rule.
    again = gateway_pb2.ReasonRequest(question="q", images=[IMAGE], options=plan.options())
    assert Plan.of(again, PAIR).policy == plan.policy


def test_a_rule_without_settings_is_refused() -> None:
    bare = PAIR.model_copy(update={"cascade": None})
    with pytest.raises(InvalidRequestError, match=r"needs \[cascade\]"):
        Plan.of(request(options=Options(rule=common_pb2.VERIFICATION_RULE_CASCADE, alpha=0.5)), bare)


def given(*steps: common_pb2.Step) -> gateway_pb2.ReasonRequest:
    return gateway_pb2.ReasonRequest(question="q", images=[IMAGE], steps=steps)


def test_the_target_policy_has_no_window_to_set() -> None:
    assert Plan.of(request(options=Options(policy="target", window=3)), PAIR).policy.window == 0


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (request(question="  "), "question"),
        (request(question="x" * 10_000), "question"),
        (request(images=0), "images"),
        (request(images=2), "images"),
        (request(options=Options(policy="magic")), "options.policy"),
        (request(options=Options(window=0)), "options.window"),
        (request(options=Options(window=1_000)), "options.window"),
        (request(options=Options(alpha=-0.1)), "options.alpha"),
        (request(options=Options(alpha=1.1)), "options.alpha"),
        (request(options=Options(alpha=float("nan"))), "options.alpha"),
        (request(options=Options(max_steps=0)), "options.max_steps"),
        (request(options=Options(max_step_tokens=5_000)), "options.max_step_tokens"),
        (request(options=Options(max_answer_tokens=0)), "options.max_answer_tokens"),
        (
            request(options=Options(policy="exact", rule=common_pb2.VERIFICATION_RULE_TBVM)),
            "options.rule",
        ),
        (request(options=Options(rule=common_pb2.VERIFICATION_RULE_EQUIVALENCE)), "options.rule"),
        (given(common_pb2.Step(text=" ")), "steps[0].text"),
        (given(common_pb2.Step(text="x" * 5_000)), "steps[0].text"),
        (given(common_pb2.Step(closes=True), common_pb2.Step(text="one .")), "steps[0].closes"),
        (given(*[common_pb2.Step(text="one .")] * 257), "steps"),
        (request(options=Options(sampling=common_pb2.Sampling(temperature=9))), "sampling.temperature"),
        (request(options=Options(sampling=common_pb2.Sampling(top_p=0))), "sampling.top_p"),
    ],
)
def test_a_bad_field_is_named(bad: gateway_pb2.ReasonRequest, field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Plan.of(bad, PAIR)
    assert str(refused.value).startswith(f"{field}: ")
