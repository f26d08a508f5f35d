"""What goes wrong: parts of a cluster, at random, are killed, frozen, stopped or cut off, and come back."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from bench.chaos.bag import Bag
from bench.chaos.proxy import Proxy
from dreamr.cluster.cluster import Cluster
from dreamr.cluster.processes import ProcessError
from dreamr.cluster.triton import TritonStartError


class Kind(StrEnum):
    """What can go wrong: with a process, with the way to it, with what Redis has."""

    KILLED = "killed"
    FROZEN = "frozen"
    DRAINED = "drained"
    CUT = "cut"
    SWALLOWED = "swallowed"
    DELAYED = "delayed"
    STORE_RESTARTED = "store_restarted"
    STORE_EMPTIED = "store_emptied"


LINK_KINDS = (Kind.CUT, Kind.SWALLOWED, Kind.DELAYED)
KINDS = (Kind.KILLED, Kind.FROZEN, Kind.DRAINED, *LINK_KINDS)
STORE_KINDS = (Kind.STORE_RESTARTED, Kind.STORE_EMPTIED)
_REDIS = "redis"
_STARTS = 5
# Without these sessions change hands.
_MOVING = ("gateway", "target", "triton")
_PAUSE_SECONDS = 0.5, 2.0
_FROZEN_SECONDS = 0.5, 3.0
_DRAIN_SECONDS = 30.0
_HELD_SECONDS = 0.5, 3.0
_DELAY_SECONDS = 0.05, 0.3


class Faults:
    """Troubles a cluster until told to stop, and heals it then.

    A store is emptied in quiet times only: what it has lost is in the memory of the session's gateway alone,
    and a session that just then is between two gateways is nowhere. So all that makes sessions change hands
    waits before and behind it until each is held, and stored, again.

    Args:
        links: proxies by the part that is behind them.
        store: Redis is killed too, and comes back with what it had or without; so is the way to it.
        settle_seconds: in which sessions that have lost their gateway are held again, and stored.

    Attributes:
        injected: how often each kind of fault was, and
        parts: at which part, by kind.
        emptied: when the store last lost everything (`time.perf_counter`).
    """

    def __init__(
        self,
        cluster: Cluster,
        links: Mapping[str, Proxy],
        seed: int,
        *,
        store: bool,
        settle_seconds: float,
    ) -> None:
        self.kinds: tuple[Kind, ...] = (*KINDS, *STORE_KINDS) if store else KINDS
        self.injected: Counter[str] = Counter()
        self.parts: dict[str, Counter[str]] = {kind: Counter() for kind in self.kinds}
        self.emptied = float("-inf")
        self._cluster = cluster
        self._links = links
        self._chance = random.Random(seed)
        self._bag = Bag(self.kinds, self._chance)
        self._places = {kind: Bag(self._hit_by(kind, store), self._chance) for kind in self.kinds}
        self._hurt: set[str] = set()
        self._settle_seconds = settle_seconds

    def enough(self, each: int) -> bool:
        """Whether each kind of fault was so many times."""
        return all(self.injected[kind] >= each for kind in self.kinds)

    async def run(self, stop: asyncio.Event) -> None:
        """One fault after the other, some of which overlap; returns once all are healed."""
        async with asyncio.TaskGroup() as group:
            while not await _set_within(stop, self._chance.uniform(*_PAUSE_SECONDS)):
                kind = self._bag.draw()
                assert kind
                if kind is Kind.STORE_EMPTIED and await self._quiet(stop):
                    return
                part = self._places[kind].draw(lambda part: part not in self._hurt)
                if part is None:
                    self._bag.put_back(kind)
                    continue
                self.injected[kind] += 1
                self.parts[kind][part] += 1
                self._hurt.add(part)
                hurting = group.create_task(self._hurt_and_heal(kind, part), name=f"{kind} {part}")
                if kind is Kind.STORE_EMPTIED:
                    await hurting
                    if await self._quiet(stop):
                        return

    async def _quiet(self, stop: asyncio.Event) -> bool:
        """Waits until gateways and target are well and sessions held; true where it is told to stop."""
        while any(part.partition("-")[0] in _MOVING for part in self._hurt):
            if await _set_within(stop, 0.1):
                return True
        return await _set_within(stop, self._settle_seconds)

    def _hit_by(self, kind: Kind, store: bool) -> list[str]:
        """Parts that a kind of fault may hit."""
        if kind in STORE_KINDS:
            return [_REDIS]
        if kind is Kind.DRAINED:
            return [name for name in self._cluster.processes if name.startswith("gateway")]
        found = self._links if kind in LINK_KINDS else [*self._cluster.tritons, *self._cluster.processes]
        return [name for name in found if name != _REDIS or (store and kind in LINK_KINDS)]

    async def _hurt_and_heal(self, kind: Kind, part: str) -> None:
        try:
            if kind in LINK_KINDS:
                await self._hurt_link(kind, self._links[part])
            elif kind is Kind.FROZEN:
                await self._freeze(part)
            elif kind is Kind.DRAINED:
                # It hands its sessions over, and ends by itself.
                await self._cluster.processes[part].stop(_DRAIN_SECONDS)
                await self._restart(part, empty=False)
            else:
                if kind is Kind.STORE_EMPTIED:
                    self.emptied = time.perf_counter()
                self._cluster.part(part).kill()
                await self._restart(part, empty=kind is Kind.STORE_EMPTIED)
        finally:
            self._hurt.discard(part)

    async def _restart(self, part: str, *, empty: bool) -> None:
        """Tries again, as supervisors do: what a part needs to start may be down itself."""
        for _ in range(_STARTS - 1):
            try:
                return await self._cluster.restart(part, empty=empty)
            except (ProcessError, TritonStartError, TimeoutError):
                continue
        return await self._cluster.restart(part, empty=empty)

    async def _freeze(self, part: str) -> None:
        frozen = self._cluster.part(part)
        frozen.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._chance.uniform(*_FROZEN_SECONDS))
        finally:
            frozen.signal(signal.SIGCONT)

    async def _hurt_link(self, kind: Kind, proxy: Proxy) -> None:
        if kind is Kind.CUT:
            proxy.cut()
        elif kind is Kind.SWALLOWED:
            await proxy.swallow(self._chance.uniform(*_HELD_SECONDS))
        else:
            delay = self._chance.uniform(*_DELAY_SECONDS)
            await proxy.slow_down(delay, self._chance.uniform(*_HELD_SECONDS))


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
