"""A rollout's text, told apart as the draft service does it: steps, and the answer behind them."""

from dataclasses import dataclass

from dreamr.v1 import common_pb2
from services.common.pair import ReasoningSettings


@dataclass(frozen=True, slots=True)
class Rollout:
    """What the draft wrote behind a question.

    Attributes:
        steps: in order; the last one closes, unless the rollout was cut off.
        answer: empty where the reasoning was not closed.
        tokens: of reasoning and answer, the closing mark and the end included.
        ends: where each step ends in the text, behind its delimiter or the mark that closes.
    """

    steps: tuple[common_pb2.Step, ...]
    answer: str
    tokens: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, text: str, tokens: int, settings: ReasoningSettings) -> "Rollout":
        """Splits at the delimiter; extra blank lines are no steps."""
        thought, closed, answer = text.partition(settings.think_close)
        steps, ends, at = list[common_pb2.Step](), list[int](), 0
        for piece in thought.split(settings.delimiter):
            at += len(piece) + len(settings.delimiter)
            if piece.strip():
                steps.append(common_pb2.Step(text=piece.strip()))
                ends.append(min(at, len(thought)))
        if closed:
            # A model may close its reasoning without another step: an empty one.
            if not steps or thought.endswith(settings.delimiter):
                steps.append(common_pb2.Step())
                ends.append(0)
            steps[-1].closes = True
            ends[-1] = len(thought) + len(closed)
        elif steps and not thought.endswith(settings.delimiter):
            steps[-1].truncated = True
        return cls(tuple(steps), answer.strip(), tokens, tuple(ends))
