"""The pair of models and how they reason: one file that every service reads."""

import tomllib
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """One model: its name in Triton, and the folder (beside the pair's file) that holds its chat template."""

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


class TbvmSettings(_Section):
    """What the target is asked about a candidate, and when it is accepted (arXiv 2605.28678, TBVM)."""

    instruction: str = Field(min_length=1)
    positive: str = Field("positive", min_length=1)
    negative: str = Field("negative", min_length=1)
    alpha: float = Field(0.7, ge=0, le=1)
    mass_floor: float = Field(0.1, ge=0, le=1)


class Pair(_Section):
    """A draft and a target that serve together."""

    name: str = Field(min_length=1)
    draft: ModelSettings
    target: ModelSettings
    reasoning: ReasoningSettings = ReasoningSettings()
    tbvm: TbvmSettings

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
