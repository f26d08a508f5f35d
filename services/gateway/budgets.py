"""Tokens that callers may still use."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from services.common.errors import OverloadedError
from services.gateway import metrics
from services.gateway.callers import Caller

_MINUTE = 60.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Budgets:
    """A token bucket for each caller with a limit: it holds a minute's worth, and fills all the time.

    What a session will use is not known when it begins. So it begins while there is anything left, and is
    charged as it goes: a bucket may fall below zero, and what was overdrawn is waited for afterwards.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def check(self, caller: Caller) -> None:
        """Returns while the caller has tokens left.

        Raises:
            OverloadedError: there are none; says when there will be.
        """
        limit = caller.limits.tokens_per_minute
        if limit and (tokens := self._filled(caller.name, limit).tokens) <= 0:
            seconds = (1 - tokens) / limit * _MINUTE
            raise OverloadedError(f"tokens: {caller.name} has used its {limit:,} a minute", seconds)

    def charge(self, caller: Caller, tokens: int) -> None:
        """Takes tokens that were written for the caller."""
        if caller.name:
            metrics.CALLER_TOKENS.labels(caller.name).inc(tokens)
        if limit := caller.limits.tokens_per_minute:
            self._filled(caller.name, limit).tokens -= tokens

    def _filled(self, name: str, limit: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(name, _Bucket(limit, now))
        bucket.tokens = min(limit, bucket.tokens + (now - bucket.at) * limit / _MINUTE)
        bucket.at = now
        return bucket
