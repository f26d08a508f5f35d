"""How many calls each caller has under way."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.common.errors import OverloadedError
from services.gateway.callers import Caller


class Shares:
    """Keeps one caller from holding all the calls that a gateway takes, as streams that only follow would.

    Args:
        most: calls of one caller.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: Counter[str] = Counter()

    @contextmanager
    def call(self, caller: Caller) -> Iterator[None]:
        """Counts a call for the block.

        Raises:
            OverloadedError: the caller has as many as it may.
        """
        if caller.name and self._calls[caller.name] >= self._most:
            raise OverloadedError(f"calls: the limit is {self._most} of one caller at once")
        self._calls[caller.name] += 1
        try:
            yield
        finally:
            self._calls[caller.name] -= 1
