"""Random draws that are fair: nothing comes a second time before everything has come once."""

import random
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Bag(Generic[Item]):
    """Items in an order that is drawn anew whenever all have been taken."""

    def __init__(self, items: Sequence[Item], chance: random.Random) -> None:
        self._items = items
        self._chance = chance
        self._left: list[Item] = []

    def draw(self, may: Callable[[Item], bool] = lambda _: True) -> Item | None:
        """The next one that may be drawn now; None where none of those that are left may."""
        if not self._left:
            self._left = self._chance.sample(self._items, len(self._items))
        for at, item in enumerate(self._left):
            if may(item):
                return self._left.pop(at)
        return None

    def put_back(self, item: Item) -> None:
        """It comes last of those that are left."""
        self._left.append(item)
