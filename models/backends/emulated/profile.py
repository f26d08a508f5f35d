"""What a pair of models on GPUs takes and does: a TOML file, with the source of its figures."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

Role = Literal["draft", "target"]


class ProfileError(ValueError):
    """The file does not fit; the message names the key."""


@dataclass(frozen=True, slots=True)
class Latency:
    """The time of one engine, as a model of its iterations.

    An iteration that computes anything takes `iteration_ms`, `sequence_ms` more for each sequence that
    decodes, and its prompt tokens' time at `prefill_tokens_per_second`. A cached prefix costs nothing.

    Attributes:
        max_num_seqs: sequences that decode at once; more wait.
        max_num_batched_tokens: prompt tokens of one iteration.
        cache_tokens: tokens whose keys and values are kept.
    """

    iteration_ms: float
    sequence_ms: float
    prefill_tokens_per_second: float
    max_num_seqs: int
    max_num_batched_tokens: int
    cache_tokens: int


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the pair writes; drawn by the question, so that every run and policy meets the same.

    Attributes:
        steps: of the target's reasoning, at least and at most.
        step_tokens: of a step, at least and at most.
        draft_step_share: tokens of a drafted step over the target's.
        acceptance: share of drafted steps that the judge holds to be right.
        equal: share that is the target's own, word for word; part of `acceptance`.
        image_tokens: that an image takes in a prompt.
    """

    steps: tuple[int, int]
    step_tokens: tuple[int, int]
    draft_step_share: float
    acceptance: float
    equal: float
    image_tokens: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A pair; `source` says where its figures come from."""

    name: str
    source: str
    draft: Latency
    target: Latency
    behaviour: Behaviour

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Reads a profile.

        Raises:
            ProfileError: the file is missing, is not TOML, or lacks a key or has one too many.
        """
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ProfileError(f"profile {path}: {error}") from error
        values = _section(path, "profile", cls, values)
        for name in ("draft", "target"):
            values[name] = Latency(**_section(path, name, Latency, values[name]))
        behaviour = _section(path, "behaviour", Behaviour, values["behaviour"])
        pairs = {name: tuple(behaviour[name]) for name in ("steps", "step_tokens")}
        values["behaviour"] = Behaviour(**{**behaviour, **pairs})
        return cls(**values)


def _section(path: Path, name: str, kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    wanted = {entry.name for entry in fields(kind)}
    if problems := sorted(wanted ^ set(values)):
        raise ProfileError(f"profile {path}: {name}: missing or unknown: {', '.join(problems)}")
    return dict(values)
