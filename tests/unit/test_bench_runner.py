"""How many questions a level asks, and in which rounds."""

import pytest

from bench.runner import asked_at


@pytest.mark.parametrize(
    ("concurrency", "count", "asked"), [(1, 7, 7), (4, 7, 16), (4, 16, 16), (4, 17, 32), (64, 8, 256)]
)
def test_a_level_asks_whole_rounds(concurrency: int, count: int, asked: int) -> None:
    assert asked_at(concurrency, count) == asked
