"""Sharing of keys and values: what is found, what is kept, and that nobody writes where another reads."""

import numpy as np
import torch

from models.backends.transformers.kv_cache import BLOCK, Arena, Key, Layout, PrefixStore, common_prefix

LAYOUT = Layout(layers=2, heads=1, dim=4, dtype=torch.float32, device=torch.device("cpu"))
ARENA_BYTES = 2 * 2 * BLOCK * 4 * 4


def key(*ids: int) -> Key:
    return np.array(ids, dtype=np.int64)


def written(*ids: int) -> Arena:
    """An ended sequence whose keys and values are its token ids."""
    arena = Arena(LAYOUT, len(ids))
    for place, token in enumerate(ids):
        arena.buffer[..., place, :] = token
    arena.used = len(ids)
    arena.writing = False
    return arena


def held(arena: Arena) -> list[int]:
    return [int(value) for value in arena.buffer[0, 0, 0, 0, : arena.used, 0]]


def look_up(store: PrefixStore, *ids: int, asked_once: bool = False) -> Arena:
    length, entry = store.find(key(*ids), len(ids) - 1)
    return store.open(key(*ids), length, entry, LAYOUT, len(ids) + 2, asked_once=asked_once)


def test_common_prefix() -> None:
    assert common_prefix(key(1, 2, 3), key(1, 2, 4, 5)) == 2
    assert common_prefix(key(1, 2), key(1, 2, 3)) == 2
    assert common_prefix(key(), key(1)) == 0
    assert common_prefix(key(2), key(1)) == 0


def test_the_longest_prefix_is_found_and_one_token_is_left_to_compute() -> None:
    store = PrefixStore(10 * ARENA_BYTES)
    store.put(key(1, 2, 3), written(1, 2, 3))
    store.put(key(1, 2, 9, 9), written(1, 2, 9, 9))
    assert held(look_up(store, 1, 2, 3, 4)) == [1, 2, 3]
    assert held(look_up(store, 1, 2, 9, 9)) == [1, 2, 9]
    assert held(look_up(store, 7, 7)) == []
    assert (store.counts.queries, store.counts.hits, store.counts.hit_tokens) == (3, 2, 6)


def test_an_entry_that_another_extends_is_replaced() -> None:
    store = PrefixStore(10 * ARENA_BYTES)
    store.put(key(1, 2), written(1, 2))
    store.put(key(1, 2, 3), written(1, 2, 3))
    store.put(key(1, 2), written(1, 2))
    assert len(store) == 1
    assert store.bytes == ARENA_BYTES


def test_the_least_recently_used_goes_first_and_the_bytes_are_bounded() -> None:
    store = PrefixStore(2 * ARENA_BYTES)
    for first in (1, 2):
        store.put(key(first, 5), written(first, 5))
    look_up(store, 1, 5, 6)
    store.put(key(3, 5), written(3, 5))
    assert held(look_up(store, 2, 5, 6)) == []
    assert held(look_up(store, 1, 5, 6)) == [1, 5]
    assert store.bytes <= 2 * ARENA_BYTES
    assert store.counts.evictions == 1


def test_what_is_too_large_or_not_wanted_is_not_kept() -> None:
    for limit in (0, ARENA_BYTES - 1):
        store = PrefixStore(limit)
        store.put(key(1), written(1))
        assert len(store) == store.bytes == 0


def test_only_one_goes_on_in_place_and_others_get_a_copy() -> None:
    store = PrefixStore(10 * ARENA_BYTES)
    first = written(1, 2, 3)
    store.put(key(1, 2, 3), first)
    going_on = look_up(store, 1, 2, 3, 4)
    assert going_on is first
    other = look_up(store, 1, 2, 3, 5)
    assert other is not first
    going_on.buffer[..., 3, :] = 4
    going_on.used = 4
    other.buffer[..., 3, :] = 5
    other.used = 4
    assert held(going_on) == [1, 2, 3, 4]
    assert held(other) == [1, 2, 3, 5]


def test_a_sequence_that_still_writes_is_read_but_not_written_by_others() -> None:
    store = PrefixStore(10 * ARENA_BYTES)
    active = written(1, 2, 3)
    active.writing = True
    store.put(key(1, 2, 3), active)
    active.buffer[..., 3, :] = 8
    active.used = 4
    other = look_up(store, 1, 2, 3, 4)
    assert other is not active
    assert held(other) == [1, 2, 3]


def test_the_end_of_a_prompt_that_was_asked_once_makes_room() -> None:
    store = PrefixStore(10 * ARENA_BYTES)
    judged = written(1, 2, 3, 90, 91)
    store.put(key(1, 2, 3, 90, 91), judged, asked_once=True)
    assert look_up(store, 1, 2, 3, 7) is not judged, "a rival leaves the step to the next verdict"
    going_on = look_up(store, 1, 2, 3, 4, 90, 91, asked_once=True)
    assert going_on is judged
    assert held(going_on) == [1, 2, 3]
    # What is left of it is still there for others, and what is written over it is not.
    for place, token in enumerate((4, 90, 91), 3):
        going_on.buffer[..., place, :] = token
    going_on.used = 6
    other = look_up(store, 1, 2, 3, 90, 92)
    assert other is not judged
    assert held(other) == [1, 2, 3]
    going_on.writing = False
    store.put(key(1, 2, 3, 4, 90, 91), going_on, asked_once=True)
    assert len(store) == 1
    assert store.bytes == going_on.bytes


def test_no_other_end_makes_room() -> None:
    store = PrefixStore(10 * ARENA_BYTES)
    generated = written(1, 2, 3, 7, 8)
    store.put(key(1, 2, 3, 7, 8), generated)
    assert look_up(store, 1, 2, 3, 4, asked_once=True) is not generated
    long = written(*range(100, 100 + 2 * BLOCK))
    store.put(key(*range(100, 100 + 2 * BLOCK)), long, asked_once=True)
    other = look_up(store, 100, 101, 4, asked_once=True)
    assert other is not long
    assert held(other) == [100, 101]
    assert held(long) == [*range(100, 100 + 2 * BLOCK)]


def test_growing_keeps_what_is_written() -> None:
    arena = written(*range(BLOCK))
    arena.reserve(BLOCK + 1)
    assert arena.capacity > BLOCK
    assert held(arena) == list(range(BLOCK))
