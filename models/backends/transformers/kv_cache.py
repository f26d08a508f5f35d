"""Keys and values of sequences: an arena per sequence, and the store that shares prefixes between them.

What an arena holds below a stored entry's length never changes, so an entry may be read while the sequence
that wrote it decodes on.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from transformers.cache_utils import Cache, DynamicLayer

Key = npt.NDArray[np.int64]

GROWTH = 1.5
BLOCK = 64  # tokens


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape of one model's cache: layers, key-value heads, head dimension."""

    layers: int
    heads: int
    dim: int
    dtype: torch.dtype
    device: torch.device


class Arena:
    """Keys and values of one sequence.

    `buffer` is (layers, 2, 1, heads, capacity, dim), `used` tokens are written.
    """

    __slots__ = ("buffer", "layout", "used", "writing")

    def __init__(self, layout: Layout, capacity: int) -> None:
        self.layout = layout
        self.buffer = self._allocate(capacity)
        self.used = 0
        # One sequence at most appends; when it has ended, another that continues exactly there may go on in
        # place.
        self.writing = True

    def _allocate(self, capacity: int) -> torch.Tensor:
        # Whole blocks: buffers of few sizes, so that memory given back is found again without new pages.
        capacity = -(-capacity // BLOCK) * BLOCK
        shape = (self.layout.layers, 2, 1, self.layout.heads, capacity, self.layout.dim)
        return torch.empty(shape, dtype=self.layout.dtype, device=self.layout.device)

    @property
    def capacity(self) -> int:
        """Tokens that fit without growing."""
        return self.buffer.shape[-2]

    @property
    def bytes(self) -> int:
        """Memory that the buffer takes."""
        return self.buffer.nbytes

    def reserve(self, tokens: int) -> None:
        """Grow so that `tokens` fit; entries that refer to the old buffer keep it."""
        if tokens > self.capacity:
            old = self.buffer
            self.buffer = self._allocate(max(tokens, int(self.capacity * GROWTH)))
            self.buffer[..., : self.used, :].copy_(old[..., : self.used, :])


class _ArenaLayer(DynamicLayer):  # type: ignore[misc]
    """One layer of an arena in the form that transformers' models append to."""

    def __init__(self, arena: Arena, index: int) -> None:
        super().__init__()
        self._keys, self._values = arena.buffer[index, 0], arena.buffer[index, 1]
        self.length = arena.used
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start = self.length
        end = self.length = start + key_states.shape[-2]
        self._keys[:, :, start:end] = key_states
        self._values[:, :, start:end] = value_states
        return self._keys[:, :, :end], self._values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length


def cache_over(arena: Arena) -> Cache:
    """A transformers Cache that continues `arena` where it stands.

    To be made anew when the arena has grown.
    """
    return Cache(layers=[_ArenaLayer(arena, index) for index in range(arena.layout.layers)])


@dataclass(slots=True)
class _Entry:
    key: Key
    arena: Arena
    buffer: torch.Tensor
    asked_once: bool

    def may_lose(self, length: int, *, asked_once: bool) -> bool:
        """Whether what stands behind `length` tokens may be written over.

        Of prompts that are asked for a single token it may: a verdict's instruction stands behind the step
        that the next verdict goes on from. A long end is another prompt altogether.
        """
        lost = len(self.key) - length
        return lost == 0 or (self.asked_once and asked_once and lost <= BLOCK)


@dataclass(slots=True)
class StoreCounts:
    """What the store has done so far.

    Look-ups, look-ups that found something, tokens reused, entries put out.
    """

    queries: int = 0
    hits: int = 0
    hit_tokens: int = 0
    evictions: int = 0


def common_prefix(left: Key, right: Key) -> int:
    """How many leading ids are equal."""
    length = min(len(left), len(right))
    different = left[:length] != right[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


class PrefixStore:
    """Keys and values of ended (or prefilled) sequences by their token ids.

    The least recently used go first.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._next = 0
        self.bytes = 0
        self.counts = StoreCounts()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, arena: Arena, *, asked_once: bool = False) -> None:
        """Share the first len(key) tokens of `arena`.

        Entries that are prefixes of it have no more to give.

        Args:
            asked_once: for a single token, which is not among them.
        """
        if self._limit == 0 or len(key) == 0:
            return
        for number, entry in list(self._entries.items()):
            common = common_prefix(entry.key, key)
            if common == len(entry.key):
                self._drop(number)
            elif common == len(key):
                self._entries.move_to_end(number)
                return
        if arena.bytes > self._limit:
            return
        self._entries[self._next] = _Entry(key, arena, arena.buffer, asked_once)
        self._next += 1
        self.bytes += arena.bytes
        while self.bytes > self._limit:
            self._drop(next(iter(self._entries)))
            self.counts.evictions += 1

    def _drop(self, number: int) -> None:
        self.bytes -= self._entries.pop(number).buffer.nbytes

    def find(self, key: Key, usable: int) -> tuple[int, _Entry | None]:
        """The longest stored prefix of `key`, at most `usable` tokens.

        Its length and the entry that holds it.
        """
        best, best_number = 0, -1
        for number, entry in reversed(self._entries.items()):
            common = min(common_prefix(entry.key, key), usable)
            if common > best:
                best, best_number = common, number
                if best == usable:
                    break
        if best == 0:
            return 0, None
        self._entries.move_to_end(best_number)
        return best, self._entries[best_number]

    def open(
        self,
        key: Key,
        length: int,
        entry: _Entry | None,
        layout: Layout,
        capacity: int,
        *,
        asked_once: bool = False,
    ) -> Arena:
        """An arena to write on from `length` tokens of `entry`.

        The entry's own where nothing stands behind them, or nothing that one who asks once has a use for.
        """
        self.counts.queries += 1
        if entry is None or length == 0:
            return Arena(layout, capacity)
        self.counts.hits += 1
        self.counts.hit_tokens += length
        arena = entry.arena
        if (
            not arena.writing
            and arena.used == len(entry.key)
            and entry.may_lose(length, asked_once=asked_once)
            and arena.buffer is entry.buffer
            and arena.capacity >= capacity
        ):
            entry.key = entry.key[:length]
            arena.used = length
            arena.writing = True
            return arena
        arena = Arena(layout, capacity)
        arena.buffer[..., :length, :].copy_(entry.buffer[..., :length, :])
        arena.used = length
        return arena

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.bytes = 0
