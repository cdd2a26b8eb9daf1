"""Keys and values of what a model has read before, so that it is not read again.

Branches of a tree share their beginnings, and a step asked for by a prompt continues what was just
sampled. Each token's keys and values are kept under a hash of all ids up to and including it, up to a
bound; the oldest give way first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import ne
from typing import Final

from jaxtyping import Float
from torch import Tensor

EMPTY: Final = 0
"""Hash of the empty prefix."""
ENTRY_BYTES: Final = 200
"""Memory of one token's hash and place, beside its keys and values."""
_NOWHERE: Final = -1


def extend_hash(prefix_hash: int, token: int) -> int:
    """Return the hash of a prefix with one more token."""
    return hash((prefix_hash, token))


class PrefixCache:
    """Ring buffer of tokens, each found by the hash of the ids up to and including it.

    Args:
        capacity: number of tokens.

    Attributes:
        missed: number of prompt ids that had to be computed so far because they were not here.
    """

    def __init__(self, capacity: int) -> None:
        self.missed = 0
        self._store: Tensor | None = None
        self._place: dict[int, int] = {}
        self._hash: list[int | None] = [None] * capacity
        self._next = 0
        # Prompts have their beginnings in common, and to compare ids with those of the last look-up
        # takes far less time than to hash them.
        self._last_ids: Sequence[int] = ()
        self._last_hashes = [EMPTY]

    def clear(self) -> None:
        """Forget all tokens; the memory is kept."""
        self._place.clear()
        self._hash = [None] * len(self._hash)
        self._next = 0

    def hashes(self, ids: Sequence[int]) -> list[int]:
        """Return the hash of each prefix of ``ids``, the empty one first."""
        same = [*map(ne, self._last_ids, ids), True].index(True)
        self._last_hashes[same:] = accumulate(ids[same:], extend_hash, initial=self._last_hashes[same])
        self._last_ids = ids
        return self._last_hashes

    def match(self, hashes: Sequence[int]) -> list[int]:
        """Return the places of the tokens of the longest known prefix. They are valid until the next
        :meth:`insert`."""
        places = [*map(self._place.get, hashes[1:], repeat(_NOWHERE)), _NOWHERE]
        return places[: places.index(_NOWHERE)]

    def copy(
        self, places: Sequence[int], tokens: Float[Tensor, "tokens sides heads dimensions"]
    ) -> None:
        """Copy what is kept at some places to ``tokens``."""
        start = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end] != places[end - 1] + 1:
                assert self._store is not None
                tokens[start:end] = self._store[places[start] : places[end - 1] + 1]
                start = end

    def insert(
        self,
        prefix_hash: int,
        ids: Sequence[int],
        tokens: Float[Tensor, "tokens sides heads dimensions"],
    ) -> int:
        """Keep tokens that follow a prefix, and return the hash of the prefix with all of them."""
        runs: list[tuple[int, int, int]] = []
        for offset, token in enumerate(ids):
            prefix_hash = extend_hash(prefix_hash, token)
            if prefix_hash in self._place or not self._hash:
                continue
            place = self._take(prefix_hash)
            if runs and runs[-1][1:] == (offset, place):
                runs[-1] = (runs[-1][0], offset + 1, place + 1)
            else:
                runs.append((offset, offset + 1, place + 1))
        if runs and self._store is None:
            self._store = tokens.new_empty(len(self._hash), *tokens.shape[1:])
        # Slices: through lists of places it takes twice as long.
        for start, end, after in runs:
            assert self._store is not None
            self._store[after - (end - start) : after] = tokens[start:end]
        return prefix_hash

    def _take(self, prefix_hash: int) -> int:
        """Return a place for a token: the next in the ring, whichever was there."""
        place = self._next
        self._next = (place + 1) % len(self._hash)
        if (old := self._hash[place]) is not None:
            del self._place[old]
        self._hash[place] = prefix_hash
        self._place[prefix_hash] = place
        return place
