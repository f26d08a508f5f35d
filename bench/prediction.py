"""The speedup that the governor's cost model predicts for FPSR, from what single calls took."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from bench.runner import Sample
from services.gateway.costs import Costs
from services.gateway.policy import FPSR
from services.gateway.speculation import Speculation


def predicted_speedup(measured: Sequence[Sample], alone: Sequence[Sample]) -> float | None:
    """How much faster than the target alone, with one session at a time.

    Nothing of the measured sessions' own times goes in: only acceptance, how far they speculated, and how
    long a drafted step and a verdict took. Pace and answer's time are those of the target alone.

    Args:
        measured: FPSR's samples; None comes back where there was no verdict among them.
        alone: the target's.
    """
    steps = [step for one in measured for step in one.answer.steps]
    verdicts = [step.verdict for step in steps if step.verdict and step.verdict.seconds > 0]
    drafted = [step.written - step.started for step in steps if step.author == "draft"]
    if not verdicts or not drafted:
        return None
    own = [step for one in alone for step in one.answer.steps]
    token = sum(step.written - step.started for step in own) / sum(step.tokens for step in own)
    costs = Costs(
        base=token,
        share=0.0,
        verdict=0.0,
        draft=fmean(drafted),
        verdict_tokens=fmean(verdict.seconds for verdict in verdicts) / token,
        verdicts=1.0,
        step_tokens=fmean(step.tokens for step in own),
    )
    acceptance = fmean(verdict.accept for verdict in verdicts)
    levels = Counter(step.speculation for step in steps)
    position = sum(
        count * _position(costs, Speculation(level), acceptance) for level, count in levels.items()
    ) / len(steps)
    count = fmean(len(one.answer.steps) for one in alone)
    answer = fmean(one.seconds - one.answer.steps[-1].committed for one in alone)
    return (costs.alone(1) * count + answer) / (position * count + answer)


def _position(costs: Costs, level: Speculation, acceptance: float) -> float:
    if level is Speculation.NONE:
        return costs.alone(1)
    return costs.speculating(level, 1, acceptance, FPSR.window)
