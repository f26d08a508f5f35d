"""What counts as flat."""

import pytest

from bench.soak import Sizes, grown


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
