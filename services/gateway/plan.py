"""A request, checked: what will be run, with every default filled in."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dreamr.v1 import common_pb2, gateway_pb2
from dreamr.versions import MAX_VERSION
from services.common.errors import InvalidRequestError
from services.common.pair import Pair
from services.common.validation import check_range, check_sampling
from services.gateway import convert
from services.gateway.messages import Author
from services.gateway.policy import FPSR, POLICIES, Policy
from services.gateway.rule import Rule

MAX_WINDOW = 16
MAX_WIDTH = 8
MAX_STEPS = 256
MAX_REASONING_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session will do.

    Attributes:
        max_repeats: 0 for no limit.
        draft_version: None leaves it to the shares of versions.
        sampling: as the request has it; checked.
    """

    policy: Policy
    alpha: float
    max_steps: int
    max_step_tokens: int
    max_answer_tokens: int
    max_reasoning_tokens: int
    max_repeats: int
    sampling: common_pb2.Sampling
    with_activity: bool
    draft_version: int | None = None

    def options(self) -> gateway_pb2.ReasonOptions:
        """As a request that leaves nothing to defaults."""
        policy = self.policy
        return gateway_pb2.ReasonOptions(
            policy=policy.name,
            window=policy.window or None,
            alpha=self.alpha,
            max_steps=self.max_steps,
            max_step_tokens=self.max_step_tokens,
            max_answer_tokens=self.max_answer_tokens,
            sampling=self.sampling,
            activity=self.with_activity,
            width=policy.width,
            first_on_target=policy.first_on_target,
            max_reasoning_tokens=self.max_reasoning_tokens,
            max_repeats=self.max_repeats or None,
            answer_by=convert.AUTHORS[policy.answer_by],
            governor=policy.governed,
            rule=convert.RULES[policy.rule] if policy.window and not policy.rule.needs_rival else None,
            draft_version=self.draft_version,
        )

    @classmethod
    def of(cls, request: gateway_pb2.ReasonRequest, pair: Pair) -> "Plan":
        """Checks everything but the images' contents.

        Raises:
            InvalidRequestError: names the field and the limit.
        """
        options, limits = request.options, pair.reasoning
        _check_question(request.question, limits.max_question_chars)
        count = len(request.images)
        if count < limits.min_images:
            raise InvalidRequestError.of("images", f"at least {limits.min_images} needed, {count} given")
        if count > limits.max_images:
            raise InvalidRequestError.of("images", f"at most {limits.max_images} allowed, {count} given")
        _check_steps(request.steps, limits.max_question_chars)
        policy = POLICIES.get(options.policy or FPSR.name)
        if policy is None:
            raise InvalidRequestError.of(
                "options.policy", f"must be one of {', '.join(POLICIES)}, not {options.policy[:64]!r}"
            )
        policy = _adjusted(policy, options)
        # Looked up all the same: a rule without settings is refused here, not by every verdict.
        calibrated = _alpha(policy, pair)
        alpha = options.alpha if options.HasField("alpha") else calibrated
        check_range("options.alpha", alpha, 0, 1)
        check_sampling(options.sampling)
        if options.HasField("draft_version"):
            check_range("options.draft_version", options.draft_version, 1, MAX_VERSION)
        return cls(
            policy=policy,
            alpha=alpha,
            max_steps=_limit(options, "max_steps", limits.max_steps, MAX_STEPS),
            max_step_tokens=_limit(options, "max_step_tokens", limits.max_step_tokens, 4096),
            max_answer_tokens=_limit(options, "max_answer_tokens", limits.max_answer_tokens, 8192),
            max_reasoning_tokens=_limit(
                options, "max_reasoning_tokens", limits.max_reasoning_tokens, MAX_REASONING_TOKENS
            ),
            max_repeats=_limit(options, "max_repeats", 0, MAX_STEPS),
            sampling=options.sampling,
            with_activity=options.activity,
            draft_version=options.draft_version if options.HasField("draft_version") else None,
        )


def _check_question(question: str, most: int) -> None:
    if not question.strip():
        raise InvalidRequestError.of("question", "must not be empty")
    if len(question) > most:
        raise InvalidRequestError.of("question", f"has {len(question):,} characters, more than {most:,}")


def _check_steps(steps: Sequence[common_pb2.Step], most: int) -> None:
    """Steps to take for granted: text each, but for one that only closes."""
    if len(steps) > MAX_STEPS:
        raise InvalidRequestError.of("steps", f"must be at most {MAX_STEPS}, not {len(steps)}")
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        if step.closes and not last:
            raise InvalidRequestError.of(f"steps[{index}].closes", "only the last step may close")
        if not step.text.strip() and not step.closes:
            raise InvalidRequestError.of(f"steps[{index}].text", "must not be empty")
        if len(step.text) > most:
            raise InvalidRequestError.of(
                f"steps[{index}].text", f"has {len(step.text):,} characters, more than {most:,}"
            )


def _adjusted(policy: Policy, options: gateway_pb2.ReasonOptions) -> Policy:
    """The named policy with the request's own numbers; the target alone takes none of them."""
    if options.HasField("window"):
        check_range("options.window", options.window, 1, MAX_WINDOW)
        # Rivals that candidates are compared with go as far ahead as the candidates.
        rivals = options.window if policy.rule.needs_rival else policy.rivals
        policy = replace(policy, window=options.window, rivals=rivals) if policy.window else policy
    if options.HasField("width"):
        check_range("options.width", options.width, 1, MAX_WIDTH)
        policy = replace(policy, width=options.width) if policy.window else policy
    if options.HasField("first_on_target"):
        check_range("options.first_on_target", options.first_on_target, 0, MAX_STEPS)
        policy = replace(policy, first_on_target=options.first_on_target) if policy.window else policy
    if options.HasField("governor") and policy.window and not policy.rule.needs_rival:
        policy = replace(policy, governed=options.governor)
    if options.rule and policy.window:
        policy = replace(policy, rule=_rule(policy, options.rule))
    if options.answer_by == gateway_pb2.AUTHOR_DRAFT and policy.window:
        policy = replace(policy, answer_by=Author.DRAFT)
    return policy


def _rule(policy: Policy, wanted: common_pb2.VerificationRule) -> Rule:
    """A rule that the policy can have instead of its own."""
    rule = convert.RULES_BY_VALUE.get(wanted)
    if policy.rule.needs_rival or rule is None or rule.needs_rival:
        allowed = ", ".join(rule for rule in Rule if not rule.needs_rival)
        raise InvalidRequestError.of(
            "options.rule", f"must be one of {allowed}, and none with policy 'lookahead' or 'exact'"
        )
    return rule


def _alpha(policy: Policy, pair: Pair) -> float:
    """The pair's calibrated value for the policy's rule."""
    match policy.rule:
        case Rule.TBVM | Rule.EQUALITY:
            return pair.tbvm.alpha
        case Rule.CASCADE if pair.cascade:
            return pair.tbvm.alpha
        case Rule.CONFIDENCE if pair.confidence:
            return pair.confidence.alpha
        case Rule.DIGIT if pair.digit:
            return pair.digit.alpha
        case Rule.EQUIVALENCE if pair.equivalence:
            return pair.equivalence.alpha
        case rule:
            raise InvalidRequestError.of(
                "options.policy", f"{policy.name!r} needs [{rule}] in the settings of pair {pair.name!r}"
            )


def _limit(options: gateway_pb2.ReasonOptions, name: str, default: int, most: int) -> int:
    if not options.HasField(name):
        return default
    value: int = getattr(options, name)
    check_range(f"options.{name}", value, 1, most)
    return value
