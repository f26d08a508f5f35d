"""Between the machine's values and the protos."""

from dreamr.v1 import common_pb2, gateway_pb2
from services.gateway.messages import Author, Reason, Step, Verdict
from services.gateway.rule import Rule
from services.gateway.speculation import Speculation

SPECULATIONS: dict[Speculation, gateway_pb2.Speculation] = {
    level: getattr(gateway_pb2, f"SPECULATION_{level.name}") for level in Speculation
}
AUTHORS = {Author.DRAFT: gateway_pb2.AUTHOR_DRAFT, Author.TARGET: gateway_pb2.AUTHOR_TARGET}

RULES: dict[Rule, common_pb2.VerificationRule] = {
    rule: getattr(common_pb2, f"VERIFICATION_RULE_{rule.name}")
    for rule in Rule
    if rule is not Rule.EQUALITY  # which needs no verifier
}
RULES_BY_VALUE = {value: rule for rule, value in RULES.items()}

_REASONS: dict[Reason, common_pb2.VerdictReason] = {
    reason: getattr(common_pb2, f"VERDICT_REASON_{reason.name}") for reason in Reason
}
_BY_VALUE = {value: reason for reason, value in _REASONS.items()}


def step_from(message: common_pb2.Step) -> Step:
    """The machine's step."""
    told = message.HasField("mean_logprob") and message.HasField("min_logprob")
    return Step(
        message.text,
        message.tokens,
        message.closes,
        message.truncated,
        (message.mean_logprob, message.min_logprob) if told else None,
    )


def step_to(step: Step) -> common_pb2.Step:
    """The API's step."""
    mean, least = step.logprobs or (None, None)
    return common_pb2.Step(
        text=step.text,
        tokens=step.tokens,
        closes=step.closes,
        truncated=step.truncated,
        mean_logprob=mean,
        min_logprob=least,
    )


def verdict_from(message: common_pb2.Verdict) -> Verdict:
    """The machine's verdict; a reason that is not known counts as a reject (fail closed)."""
    reason = _BY_VALUE.get(message.reason)
    return Verdict(
        accept=message.accept and reason is not None,
        reason=reason or Reason.UNAVAILABLE,
        p_pos=message.p_pos,
        p_neg=message.p_neg,
        score=message.score,
        alpha=message.alpha,
        mass=message.mass,
        rule=RULES_BY_VALUE.get(message.rule),
    )


def verdict_to(verdict: Verdict) -> common_pb2.Verdict:
    """The API's verdict."""
    return common_pb2.Verdict(
        accept=verdict.accept,
        reason=_REASONS[verdict.reason],
        p_pos=verdict.p_pos,
        p_neg=verdict.p_neg,
        score=verdict.score,
        alpha=verdict.alpha,
        mass=verdict.mass,
        seconds=verdict.seconds,
        rule=RULES[verdict.rule] if verdict.rule else common_pb2.VERIFICATION_RULE_UNSPECIFIED,
    )
