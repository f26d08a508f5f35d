"""What counts as flat, and what a load must not hide."""

from typing import Any

import pytest

import dreamr
from bench.questions import Question
from bench.soak import Load, Sizes, grown


def samples(name: str, *values: float) -> list[Sizes]:
    """Ten samples in a row of each value."""
    return [{"gateway": {name: value}} for value in values for _ in range(10)]


def test_the_first_third_may_warm_up() -> None:
    assert grown(samples("mib", 50, 100, 105)) == []


@pytest.mark.parametrize("name", ["mib", "descriptors", "threads", "tasks", "requests"])
def test_growth_is_told(name: str) -> None:
    assert grown(samples(name, 100, 100, 130)) == [f"gateway: 30.0 {name} more"]


def test_a_moment_is_no_growth() -> None:
    steady = samples("tasks", 40, 40, 40)
    steady[25]["gateway"]["tasks"] = 200
    assert grown(steady) == []


async def test_a_cancelled_session_that_failed_before_is_told() -> None:
    class Broken:
        async def ask(self, *_: Any, **__: Any) -> None:
            raise dreamr.ServerError("broken")

    load = Load(Broken(), [Question((b"",), "q", None)], seed=1)  # type: ignore[arg-type]
    load.asked = 3
    with pytest.raises(dreamr.ServerError, match="broken"):
        await load._ask()
