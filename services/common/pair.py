"""The pair of models and how they reason: one file that every service reads."""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """One model: its name in Triton, and the folder (beside the pair's file) that holds its chat template.

    With a `tokenizer.json` there too, the judge's words are looked up in the target's; without one they are
    told by the texts of tokens.
    """

    triton_model: str = Field(min_length=1)
    template: Path


class ReasoningSettings(_Section):
    """How steps, reasoning and answer are told apart, and their limits (tokens and steps are counts)."""

    delimiter: str = Field("\n\n", min_length=1)
    think_close: str = Field("</think>", min_length=1)
    max_step_tokens: int = Field(512, ge=1, le=4096)
    max_steps: int = Field(128, ge=1, le=256)
    max_reasoning_tokens: int = Field(16_384, ge=1)
    max_answer_tokens: int = Field(1024, ge=1, le=8192)
    max_question_chars: int = Field(32_000, ge=1)
    min_images: int = Field(0, ge=0)
    max_images: int = Field(8, ge=0)


class JudgeSettings(_Section):
    """What the target is asked about a candidate, and what its score is compared with.

    Attributes:
        mass_floor: probability of all words (or digits) that count, below which the judge has said nothing.
    """

    instruction: str = Field(min_length=1)
    alpha: float = Field(0.7, ge=0, le=1)
    mass_floor: float = Field(0.1, ge=0, le=1)


class TbvmSettings(JudgeSettings):
    """A word for and a word against (TBVM, arXiv 2605.28678)."""

    positive: str = Field("positive", min_length=1)
    negative: str = Field("negative", min_length=1)


class DigitSettings(JudgeSettings):
    """A digit from 0 to 9 (SpecReason, arXiv 2504.07891, whose threshold is 7).

    Attributes:
        alpha: the least digit to accept, over nine.
        scoring: the mean of the digits by their probabilities, or the likeliest one.
    """

    alpha: float = Field(7 / 9, ge=0, le=1)
    scoring: Literal["expected", "greedy"] = "expected"


class EquivalenceSettings(TbvmSettings):
    """Whether a candidate says what the rival says (Lookahead Reasoning, arXiv 2506.19830).

    Attributes:
        instruction: `{rival}` in it stands for the rival's text.
    """

    instruction: str = Field(pattern=r"\{rival\}")
    alpha: float = Field(0.5, ge=0, le=1)


class ConfidenceSettings(_Section):
    """How likely the draft held its own tokens; the target is not asked.

    Attributes:
        of: the least likely token, or the geometric mean over all.
        alpha: the probability above which a step is accepted.
    """

    of: Literal["min", "mean"] = "min"
    alpha: float = Field(0.9, ge=0, le=1)


class CascadeSettings(_Section):
    """When the draft's confidence decides, and TBVM is not asked (after ConfSpec, arXiv 2602.18447).

    Attributes:
        accept: confidence above which a step is accepted.
        reject: confidence below which it is rejected; 0 leaves that to TBVM.
    """

    accept: float = Field(ge=0, le=1)
    reject: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.reject > self.accept:
            raise ValueError("reject must not be above accept")
        return self


class Pair(_Section):
    """A draft and a target that serve together."""

    name: str = Field(min_length=1)
    draft: ModelSettings
    target: ModelSettings
    reasoning: ReasoningSettings = ReasoningSettings()
    tbvm: TbvmSettings
    digit: DigitSettings | None = None
    equivalence: EquivalenceSettings | None = None
    confidence: ConfidenceSettings | None = None
    cascade: CascadeSettings | None = None

    @model_validator(mode="after")
    def _check_cascade(self) -> Self:
        if self.cascade and not self.confidence:
            raise ValueError("[cascade] needs [confidence]")
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a TOML file; template folders are resolved beside it.

        Raises:
            ValueError: the file is missing, is not TOML, or holds a key or value that does not fit; the
                message names the file and the key.
        """
        try:
            pair = cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise ValueError(f"pair {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, ValidationError) as error:
            raise ValueError(f"pair {path}: {error}") from error
        return pair.model_copy(
            update={
                name: model.model_copy(update={"template": path.parent / model.template})
                for name, model in (("draft", pair.draft), ("target", pair.target))
            }
        )
