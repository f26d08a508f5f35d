"""Which tokens of a rollout its advantage is given to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from training.sapo.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Rejected:
    """The tokens of a rollout's first rejected step: from `start` up to `end`, excluded."""

    start: int
    end: int

    @classmethod
    def of(
        cls, rollout: Rollout, accepted: int, ids: Sequence[int], decode: Callable[[Sequence[int]], str]
    ) -> "Rejected | None":
        """None where all steps are accepted, or there is none.

        Args:
            accepted: steps in a row from the first one.
            ids: the rollout's tokens.
            decode: the text of some of them, as the rollout was read from.
        """
        if accepted >= len(rollout.steps):
            return None
        start = _tokens(ids, rollout.ends[accepted - 1], decode) if accepted else 0
        return cls(start, _tokens(ids, rollout.ends[accepted], decode))


def credited(advantages: Tensor, length: int, rejected: Sequence[Rejected | None]) -> Tensor:
    """Advantages token by token.

    The accepted steps before a rejected one get praise but no blame, it gets blame but no praise, and what is
    behind it gets neither: the cluster never commits it. Rollouts without a reject get all of theirs.

    Args:
        advantages: [B], one a rollout.
        length: T, tokens of the longest rollout.

    Returns:
        [B, T].
    """
    found = advantages[:, None].repeat(1, length)
    for row, span in enumerate(rejected):
        if span:
            found[row, : span.start].clamp_(min=0)
            found[row, span.start : span.end].clamp_(max=0)
            found[row, span.end :] = 0
    return found


def _tokens(ids: Sequence[int], characters: int, decode: Callable[[Sequence[int]], str]) -> int:
    """How many tokens it takes for so many characters; their text grows with each."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(ids[:middle])) >= characters:
            high = middle
        else:
            low = middle + 1
    return low
