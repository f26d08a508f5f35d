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

    What goes in of the measured sessions: acceptance, how far they speculated, and how long a drafted step
    and a verdict took. Pace and length of the target's steps and the answer's time are those of the target
    alone. That a rival must begin first is left out.

    Args:
        measured: FPSR's samples; None comes back where there was no verdict among them.
        alone: the target's.
    """
    steps = [step for one in measured for step in one.answer.steps]
    verdicts = [step.verdict for step in steps if step.verdict]
    given = [verdict.seconds for verdict in verdicts if verdict.seconds > 0]
    drafted = [step.written - step.started for step in steps if step.author == "draft"]
    if not given or not drafted:
        return None
    own = [step for one in alone for step in one.answer.steps]
    token = sum(step.written - step.started for step in own) / sum(step.tokens for step in own)
    costs = Costs(
        base=token,
        share=0.0,
        verdict=0.0,
        start=0.0,
        draft=fmean(drafted),
        verdict_tokens=fmean(given) / token,
        verdicts=1.0,
        step_tokens=fmean(step.tokens for step in own),
    )
    acceptance = fmean(verdict.accept for verdict in verdicts)
    # A commit tells the level behind it.
    levels = Counter(
        level
        for one in measured
        for level in (one.answer.speculation, *(step.speculation for step in one.answer.steps[:-1]))
    )
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
