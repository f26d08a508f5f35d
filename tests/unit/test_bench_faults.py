"""Draws are fair: every kind of fault comes as often as the others."""

import random
from collections import Counter

from bench.chaos.bag import Bag


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
