"""What clients of Redis leave to the garbage collector goes with the tests that made it."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """Or else it would fail whichever test comes when it is time."""
    yield
    gc.collect()
