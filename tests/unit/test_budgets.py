"""Token budgets under a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamr.keys import Limits
from services.common.errors import OverloadedError
from services.gateway.budgets import Budgets
from services.gateway.callers import Caller


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_overdrawn_is_waited_for() -> None:
    clock = Clock()
    budgets, caller = Budgets(clock), Caller("ci", Limits(tokens_per_minute=600))
    budgets.check(caller)
    budgets.charge(caller, 700)
    with pytest.raises(OverloadedError, match="600 a minute") as caught:
        budgets.check(caller)
    assert caught.value.retry_after == pytest.approx(101 / 10)
    clock.now += 10.0
    with pytest.raises(OverloadedError):
        budgets.check(caller)
    clock.now += 0.1
    budgets.check(caller)


def test_callers_without_a_limit_are_never_refused_and_others_do_not_pay() -> None:
    budgets, free = Budgets(Clock()), Caller("app")
    budgets.charge(free, 10**9)
    budgets.check(free)
    limited = Caller("ci", Limits(tokens_per_minute=1))
    budgets.charge(limited, 10)
    budgets.check(Caller("other", Limits(tokens_per_minute=1)))
    budgets.check(Caller())


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 2_000)), min_size=1, max_size=60),
)
def test_in_the_long_run_the_limit_holds(limit: int, uses: list[tuple[float, int]]) -> None:
    """What was used before each admission is less than a minute's worth and what has filled up since."""
    clock = Clock()
    budgets, caller = Budgets(clock), Caller("ci", Limits(tokens_per_minute=limit))
    used, begun = 0, clock.now
    for pause, tokens in uses:
        clock.now += pause
        if _refused(budgets, caller):
            continue
        assert used < limit + (clock.now - begun) * limit / 60 + 1e-6
        budgets.charge(caller, tokens)
        used += tokens


def _refused(budgets: Budgets, caller: Caller) -> bool:
    try:
        budgets.check(caller)
    except OverloadedError as refusal:
        return (refusal.retry_after or 0) > 0
    return False
