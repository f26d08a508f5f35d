"""Draws are fair: every kind of fault comes as often as the others. Gateways are stopped as at a roll-out."""

import asyncio
import random
from collections import Counter
from typing import Any

from bench.chaos.bag import Bag
from bench.chaos.faults import Faults, Kind


def test_everything_comes_once_before_anything_comes_again() -> None:
    bag = Bag("abcde", random.Random(1))
    drawn = [[bag.draw() for _ in range(5)] for _ in range(20)]
    assert all(sorted(filter(None, once)) == list("abcde") for once in drawn)
    assert len(set(map(tuple, drawn))) > 1


def test_what_may_not_be_drawn_now_comes_later() -> None:
    bag = Bag("abc", random.Random(1))
    assert Counter(bag.draw(lambda item: item != "a") for _ in range(2)) == Counter("bc")
    assert bag.draw(lambda item: item != "a") is None
    assert bag.draw() == "a"


def test_what_is_put_back_comes_last() -> None:
    bag = Bag("abc", random.Random(1))
    first = bag.draw()
    assert first
    bag.put_back(first)
    assert [bag.draw() for _ in range(3)][-1] == first


async def test_only_gateways_are_drained_and_end_before_they_come_back() -> None:
    stop, done = asyncio.Event(), list[tuple[str, str]]()

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        async def stop(self, seconds: float) -> None:
            assert seconds > 10, "longer than a service's own grace"
            done.append(("stopped", self.name))

    class Cluster:
        def __init__(self) -> None:
            self.tritons: dict[str, Any] = {}
            self.processes = {name: Part(name) for name in ("draft", "gateway", "gateway-2", "redis")}

        async def restart(self, name: str, *, empty: bool) -> None:
            assert not empty
            done.append(("started", name))
            if len(done) == 4:
                stop.set()

    faults = Faults(Cluster(), {}, 1, store=False, settle_seconds=0)  # type: ignore[arg-type]
    faults.kinds = (Kind.DRAINED,)
    faults._bag = Bag(faults.kinds, random.Random(1))
    async with asyncio.timeout(30):
        await faults.run(stop)
    assert {name for _, name in done} == {"gateway", "gateway-2"}
    assert [what for what, _ in done] == ["stopped", "started"] * 2
    assert faults.parts["drained"] == {"gateway": 1, "gateway-2": 1}
