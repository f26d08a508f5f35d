"""A request, checked: what will be run, with every default filled in."""

from dataclasses import dataclass, replace

from dreamr.v1 import common_pb2, gateway_pb2
from services.common.errors import InvalidRequestError
from services.common.pair import Pair
from services.common.validation import check_range, check_sampling
from services.gateway.policy import FPSR, POLICIES, Policy

MAX_WINDOW = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session will do.

    Attributes:
        sampling: as the request has it; checked.
    """

    policy: Policy
    alpha: float
    max_steps: int
    max_step_tokens: int
    max_answer_tokens: int
    sampling: common_pb2.Sampling
    with_activity: bool

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
        policy = POLICIES.get(options.policy or FPSR.name)
        if policy is None:
            raise InvalidRequestError.of(
                "options.policy", f"must be one of {', '.join(POLICIES)}, not {options.policy[:64]!r}"
            )
        if options.HasField("window"):
            check_range("options.window", options.window, 1, MAX_WINDOW)
            if policy.window:
                policy = replace(policy, window=options.window)
        alpha = options.alpha if options.HasField("alpha") else pair.tbvm.alpha
        check_range("options.alpha", alpha, 0, 1)
        check_sampling(options.sampling)
        return cls(
            policy=policy,
            alpha=alpha,
            max_steps=_limit(options, "max_steps", limits.max_steps, 256),
            max_step_tokens=_limit(options, "max_step_tokens", limits.max_step_tokens, 4096),
            max_answer_tokens=_limit(options, "max_answer_tokens", limits.max_answer_tokens, 8192),
            sampling=options.sampling,
            with_activity=options.activity,
        )


def _check_question(question: str, most: int) -> None:
    if not question.strip():
        raise InvalidRequestError.of("question", "must not be empty")
    if len(question) > most:
        raise InvalidRequestError.of("question", f"has {len(question):,} characters, more than {most:,}")


def _limit(options: gateway_pb2.ReasonOptions, name: str, default: int, most: int) -> int:
    value: int = getattr(options, name) if options.HasField(name) else default
    check_range(f"options.{name}", value, 1, most)
    return value
