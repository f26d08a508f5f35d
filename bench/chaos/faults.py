"""What goes wrong: parts of a cluster, chosen at random, are killed, frozen or cut off, and come back."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from bench.chaos.proxy import Proxy
from dreamr.cluster.cluster import Cluster


class Kind(StrEnum):
    """What can go wrong."""

    KILLED = "killed"
    FROZEN = "frozen"
    CUT = "cut"
    SWALLOWED = "swallowed"
    DELAYED = "delayed"
    STORE_LOST = "store_lost"


KINDS = (Kind.KILLED, Kind.FROZEN, Kind.CUT, Kind.SWALLOWED, Kind.DELAYED)
_PAUSE_SECONDS = 0.3, 1.2
_FROZEN_SECONDS = 0.5, 3.0
_HELD_SECONDS = 0.5, 3.0
_DELAY_SECONDS = 0.05, 0.3


class Faults:
    """Troubles a cluster until cancelled, and heals it then.

    Args:
        proxies: in front of the gateways.
        store: the store is killed as well now and then, and comes back empty.

    Attributes:
        injected: how often each kind of fault was.
    """

    def __init__(self, cluster: Cluster, proxies: Sequence[Proxy], seed: int, *, store: bool) -> None:
        self.injected: Counter[str] = Counter()
        self._cluster = cluster
        self._proxies = proxies
        self._chance = random.Random(seed)
        self._kinds = (*KINDS, Kind.STORE_LOST) if store else KINDS
        self._hurt: set[str] = set()

    async def run(self) -> None:
        """One fault after the other; some overlap."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._chance.uniform(*_PAUSE_SECONDS))
                kind = self._chance.choice(self._kinds)
                if kind in (Kind.KILLED, Kind.FROZEN, Kind.STORE_LOST):
                    parts = ["redis"] if kind is Kind.STORE_LOST else self._parts()
                    part = self._chance.choice(parts)
                    if part not in self._hurt:
                        self.injected[kind] += 1
                        group.create_task(self._hurt_part(kind, part))
                else:
                    self.injected[kind] += 1
                    group.create_task(self._hurt_link(kind, self._chance.choice(self._proxies)))

    def _parts(self) -> list[str]:
        return [name for name in self._cluster.processes if name != "redis"]

    async def _hurt_part(self, kind: Kind, part: str) -> None:
        self._hurt.add(part)
        child = self._cluster.processes[part]
        try:
            if kind is Kind.FROZEN:
                child.signal(signal.SIGSTOP)
                await asyncio.sleep(self._chance.uniform(*_FROZEN_SECONDS))
            else:
                child.kill()
        finally:
            # Also where the run is over: what was hurt is healed.
            await asyncio.shield(self._heal(kind, part))
            self._hurt.discard(part)

    async def _heal(self, kind: Kind, part: str) -> None:
        child = self._cluster.processes[part]
        if kind is Kind.FROZEN:
            child.signal(signal.SIGCONT)
        elif kind is Kind.STORE_LOST:
            await child.stop()
            await child.start()
        else:
            await self._cluster.restart(part)

    async def _hurt_link(self, kind: Kind, proxy: Proxy) -> None:
        if kind is Kind.CUT:
            proxy.cut()
        elif kind is Kind.SWALLOWED:
            await proxy.swallow(self._chance.uniform(*_HELD_SECONDS))
        else:
            delay = self._chance.uniform(*_DELAY_SECONDS)
            await proxy.slow_down(delay, self._chance.uniform(*_HELD_SECONDS))
