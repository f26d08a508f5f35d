"""Who comes in, through whichever front, and what each may have: one count for all fronts together."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.common import logs
from services.common.metadata import Metadata
from services.gateway.admission import Admission
from services.gateway.budgets import Budgets
from services.gateway.callers import Caller, Callers
from services.gateway.settings import GatewaySettings
from services.gateway.shares import Shares


class Entrance:
    """Callers by their keys.

    Attributes:
        admission: places for what keeps models busy.
        budgets: tokens that callers may still use.
        callers: who they are.
    """

    def __init__(self, settings: GatewaySettings, callers: Callers) -> None:
        self.admission = Admission(settings.max_sessions, settings.max_waiting)
        self.budgets = Budgets()
        self.callers = callers
        self._shares = Shares(max(1, settings.max_calls // 2))

    @contextmanager
    def call(self, metadata: Metadata) -> Iterator[Caller]:
        """Who calls; the call is counted for the block.

        Raises:
            UnauthenticatedError: see Callers.
            OverloadedError: the caller has as many calls under way as it may.
        """
        caller = self.callers.of(metadata)
        if caller.name:
            logs.bind_caller(caller.name)
        with self._shares.call(caller):
            yield caller
