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
    """

    steps: tuple[common_pb2.Step, ...]
    answer: str
    tokens: int

    @classmethod
    def of(cls, text: str, tokens: int, settings: ReasoningSettings) -> "Rollout":
        """Splits at the delimiter; extra blank lines are no steps."""
        thought, closed, answer = text.partition(settings.think_close)
        texts = [step.strip() for step in thought.split(settings.delimiter) if step.strip()]
        steps = [common_pb2.Step(text=step) for step in texts]
        if closed:
            # A model may close its reasoning without another step: an empty one.
            if not steps or thought.endswith(settings.delimiter):
                steps.append(common_pb2.Step())
            steps[-1].closes = True
        elif steps and not thought.endswith(settings.delimiter):
            steps[-1].truncated = True
        return cls(tuple(steps), answer.strip(), tokens)
