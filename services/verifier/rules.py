"""The rules of one pair: what is asked about a candidate, and how the reply is read."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from dreamr.v1 import common_pb2, verifier_pb2
from services.common.errors import InvalidRequestError
from services.common.pair import JudgeSettings, Pair, TbvmSettings
from services.verifier.digit import Digit
from services.verifier.tbvm import Tbvm

RIVAL = "{rival}"


class Reader(Protocol):
    """Turns the target's likeliest next tokens into a verdict."""

    def judge(self, tokens: Iterable[tuple[str, float]], alpha: float) -> common_pb2.Verdict:
        """Tokens are (text, natural log-probability); fails closed."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to judge."""

    settings: JudgeSettings
    reader: Reader

    def instruction(self, request: verifier_pb2.VerifyRequest) -> str:
        """What to ask.

        Raises:
            InvalidRequestError: the rule compares with a rival, and none is given.
        """
        if RIVAL not in self.settings.instruction:
            return self.settings.instruction
        if not request.HasField("rival"):
            raise InvalidRequestError.of("rival", "must be given with this rule")
        return self.settings.instruction.replace(RIVAL, request.rival.text)


class Rules:
    """All rules that a pair has settings for."""

    def __init__(self, pair: Pair) -> None:
        self._rules = {verifier_pb2.VERIFICATION_RULE_TBVM: _by_words(pair.tbvm)}
        if digit := pair.digit:
            reader = Digit(digit.scoring == "expected", digit.mass_floor)
            self._rules[verifier_pb2.VERIFICATION_RULE_DIGIT] = Rule(digit, reader)
        if pair.equivalence:
            self._rules[verifier_pb2.VERIFICATION_RULE_EQUIVALENCE] = _by_words(pair.equivalence)

    def of(self, rule: verifier_pb2.VerificationRule) -> Rule:
        """The rule of that name.

        Raises:
            InvalidRequestError: there is none, or the pair has no settings for it.
        """
        found = self._rules.get(rule or verifier_pb2.VERIFICATION_RULE_TBVM)
        if found is None:
            raise InvalidRequestError.of("rule", f"{rule} is none that this pair has settings for")
        return found


def _by_words(settings: TbvmSettings) -> Rule:
    return Rule(settings, Tbvm(settings.positive, settings.negative, settings.mass_floor))
