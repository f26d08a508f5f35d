"""Which prompt prefixes are cached: blocks of tokens by the hash of all up to them, as vLLM keeps them."""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK = 16


@dataclass(slots=True)
class BlockCounts:
    """Look-ups, look-ups that found something, tokens reused, blocks put out."""

    queries: int = 0
    hits: int = 0
    hit_tokens: int = 0
    evictions: int = 0


class BlockCache:
    """The least recently used blocks go first.

    Args:
        capacity: tokens.
    """

    bytes = 0  # nothing is really kept

    def __init__(self, capacity: int) -> None:
        self._most = max(1, capacity // BLOCK)
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.counts = BlockCounts()

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, ids: npt.NDArray[np.int64]) -> int:
        """How many leading tokens are cached; the last token never counts, since it must be computed."""
        self.counts.queries += 1
        found = 0
        for name in _names(ids[: len(ids) - 1]):
            if name not in self._blocks:
                break
            self._blocks.move_to_end(name)
            found += BLOCK
        self.counts.hits += found > 0
        self.counts.hit_tokens += found
        return found

    def put(self, ids: npt.NDArray[np.int64]) -> None:
        """Keeps all whole blocks of a sequence."""
        for name in _names(ids):
            self._blocks[name] = None
            self._blocks.move_to_end(name)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
            self.counts.evictions += 1


def _names(ids: npt.NDArray[np.int64]) -> list[int]:
    names, before = [], 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        before = hash((before, ids[end - BLOCK : end].tobytes()))
        names.append(before)
    return names
