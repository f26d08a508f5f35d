"""Has the target read a question while the draft writes, where no rival does: the first verdict had to."""

import asyncio
from collections.abc import Sequence

import structlog

from services.common import tracing
from services.common.errors import ServiceError
from services.gateway.cluster_parts import ClusterParts
from services.gateway.messages import Step
from services.gateway.policy import Policy
from services.gateway.speculation import Speculation
from services.gateway.totals import ModelTotals

log = structlog.get_logger()


class Prefill:
    """One session's. What it costs is the target's; what comes of it is of no consequence."""

    def __init__(self, parts: ClusterParts, totals: ModelTotals) -> None:
        self._parts = parts
        self._totals = totals
        self._reading: asyncio.Task[None] | None = None

    def begin(
        self, group: asyncio.TaskGroup, policy: Policy, speculation: Speculation, committed: Sequence[Step]
    ) -> None:
        """Begins to read the question and the steps behind it, where that is of use."""
        if _is_of_use(policy, speculation, committed):
            self._totals.calls += 1
            reading = self._read([step.text for step in committed])
            self._reading = group.create_task(reading, name="prefill")

    def end(self) -> None:
        """A verdict has read it, or will not any more."""
        if self._reading and self._reading.cancel():
            self._totals.cancelled_calls += 1
        self._reading = None

    async def _read(self, steps: Sequence[str]) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            with tracing.span("prefill"):
                tokens = await self._parts.prefill(steps)
            self._totals.generated_tokens += tokens
        except ServiceError:
            # Whoever needs the target hears of it.
            log.debug("the target did not read ahead", exc_info=True)
        finally:
            self._totals.busy_seconds += clock() - began


def _is_of_use(policy: Policy, speculation: Speculation, committed: Sequence[Step]) -> bool:
    """Whether the target would read the question only for the first verdict."""
    return (
        speculation is Speculation.AFTER_REJECT
        and bool(policy.rivals)
        and not policy.rule.needs_rival
        and len(committed) >= policy.first_on_target
        and not any(step.closes for step in committed)
    )
