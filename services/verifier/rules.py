"""The rules of one pair behind one interface: what is asked about a candidate, and how the reply is read."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dreamr.v1 import common_pb2
from services.common.errors import InvalidRequestError
from services.common.pair import CascadeSettings, ConfidenceSettings, JudgeSettings, Pair, TbvmSettings
from services.verifier.confidence import Confidence
from services.verifier.digit import Digit
from services.verifier.evidence import Token
from services.verifier.tbvm import Tbvm
from services.verifier.words import Words

RIVAL = "{rival}"

Ask = Callable[[str], Awaitable[Sequence[Token] | None]]
"""Asks the target for the next word behind the candidate and an instruction; None when it is late."""


@dataclass(frozen=True, slots=True)
class Case:
    """A candidate to judge.

    Attributes:
        rival: the target's own step for the position, where there is one.
        ask: of the target; rules that can do without do not call it.
    """

    candidate: common_pb2.Step
    rival: common_pb2.Step | None
    ask: Ask


class Rule(Protocol):
    """One way to judge."""

    @property
    def alpha(self) -> float:
        """The pair's calibrated value."""
        ...

    async def judge(self, case: Case, alpha: float) -> common_pb2.Verdict:
        """A verdict with its evidence; whatever is missing or late is a reject that says so.

        Raises:
            InvalidRequestError: the rule compares with a rival, and none is given.
            ServiceError: the target cannot be asked.
        """
        ...


class Reader(Protocol):
    """Turns the target's likeliest next tokens into a verdict."""

    def judge(self, tokens: Sequence[Token], alpha: float) -> common_pb2.Verdict:
        """Fails closed."""
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """Asks the target one question about the candidate: TBVM, the digit, equivalence."""

    name: common_pb2.VerificationRule
    settings: JudgeSettings
    reader: Reader

    @property
    def alpha(self) -> float:
        """See Rule."""
        return self.settings.alpha

    async def judge(self, case: Case, alpha: float) -> common_pb2.Verdict:
        """See Rule."""
        instruction = self.settings.instruction
        if RIVAL in instruction:
            if case.rival is None:
                raise InvalidRequestError.of("rival", "must be given with this rule")
            instruction = instruction.replace(RIVAL, case.rival.text)
        tokens = await case.ask(instruction)
        if tokens is None:
            verdict = common_pb2.Verdict(reason=common_pb2.VERDICT_REASON_LATE, alpha=alpha)
        else:
            verdict = self.reader.judge(tokens, alpha)
        verdict.rule = self.name
        return verdict


@dataclass(frozen=True, slots=True)
class Confident:
    """Goes by the draft's confidence alone."""

    settings: ConfidenceSettings

    @property
    def alpha(self) -> float:
        """See Rule."""
        return self.settings.alpha

    async def judge(self, case: Case, alpha: float) -> common_pb2.Verdict:
        """See Rule."""
        verdict = Confidence(self.settings.of).judge(case.candidate, alpha)
        verdict.rule = common_pb2.VERIFICATION_RULE_CONFIDENCE
        return verdict


@dataclass(frozen=True, slots=True)
class Cascade:
    """A cheap rule first; a costly one, with alpha, where that is unsure (ConfSpec, arXiv 2602.18447).

    The verdict is that of the rule that decided, and names it.
    """

    settings: CascadeSettings
    cheap: Rule
    costly: Rule

    @property
    def alpha(self) -> float:
        """See Rule: the costly one's."""
        return self.costly.alpha

    async def judge(self, case: Case, alpha: float) -> common_pb2.Verdict:
        """See Rule. Where the cheap rule has nothing to go by, it is unsure."""
        verdict = await self.cheap.judge(case, self.settings.accept)
        if verdict.reason == common_pb2.VERDICT_REASON_SCORE:
            if verdict.accept:
                return verdict
            if verdict.score < self.settings.reject:
                verdict.alpha = self.settings.reject
                return verdict
        return await self.costly.judge(case, alpha)


class Rules:
    """All rules that a pair has settings for.

    Raises:
        ValueError: the target's tokenizer does not know the judge's words.
    """

    def __init__(self, pair: Pair) -> None:
        def by_words(name: common_pb2.VerificationRule, settings: TbvmSettings) -> Rule:
            words = Words.find(settings.positive, settings.negative, pair.target.template)
            return Asking(name, settings, Tbvm(words, settings.mass_floor))

        tbvm = by_words(common_pb2.VERIFICATION_RULE_TBVM, pair.tbvm)
        self._rules: dict[common_pb2.VerificationRule, Rule] = {common_pb2.VERIFICATION_RULE_TBVM: tbvm}
        if digit := pair.digit:
            name = common_pb2.VERIFICATION_RULE_DIGIT
            self._rules[name] = Asking(name, digit, Digit(digit.scoring == "expected", digit.mass_floor))
        if pair.equivalence:
            name = common_pb2.VERIFICATION_RULE_EQUIVALENCE
            self._rules[name] = by_words(name, pair.equivalence)
        if pair.confidence:
            confident = Confident(pair.confidence)
            self._rules[common_pb2.VERIFICATION_RULE_CONFIDENCE] = confident
            if pair.cascade:
                cascade = Cascade(pair.cascade, confident, tbvm)
                self._rules[common_pb2.VERIFICATION_RULE_CASCADE] = cascade

    def of(self, rule: common_pb2.VerificationRule) -> Rule:
        """The rule of that name.

        Raises:
            InvalidRequestError: there is none, or the pair has no settings for it.
        """
        found = self._rules.get(rule or common_pb2.VERIFICATION_RULE_TBVM)
        if found is None:
            raise InvalidRequestError.of("rule", f"{rule} is none that this pair has settings for")
        return found
