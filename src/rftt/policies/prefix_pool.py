"""What a model has read before, so that it is not read again.

Branches of a tree share their beginnings, and a step asked for by a prompt continues what was just
sampled. Each token's keys and values are kept under its whole prefix, up to a bound; the oldest give
way first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import ne
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

EMPTY = 0
"""The key of the empty prefix."""
_NOWHERE: Final = -1


def longer(key: int, token: int) -> int:
    """The key of a prefix with one more token."""
    return hash((key, token))


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences both begin with."""
    return [*map(ne, one, other), True].index(True)


class PrefixPool:
    """A ring of ``capacity`` tokens, each found by the ids up to and including it.

    ``shape`` is that of one token's keys and values: ``(sides, heads, dimensions)``.
    """

    def __init__(self, capacity: int, shape: tuple[int, int, int]) -> None:
        self._store = torch.empty(0, *shape)
        self._place: dict[int, int] = {}
        self._key: list[int | None] = [None] * capacity
        self._next = 0
        # What was looked for last. Prompts have their beginnings in common, and to compare ids takes far
        # less time than to hash them.
        self._ids: Sequence[int] = ()
        self._keys = [EMPTY]
        """Of each beginning of it."""
        self.missed = 0
        """How many ids had to be read so far because they were not here."""

    def clear(self) -> None:
        """Forget everything; the memory stays taken."""
        self._place.clear()
        self._key = [None] * len(self._key)
        self._next = 0

    def match(self, ids: Sequence[int]) -> tuple[list[int], int]:
        """The places of the longest known prefix of ``ids``, and its key. Places stay good until the
        next :meth:`insert`."""
        same = common(self._ids, ids)
        self._keys[same:] = accumulate(ids[same:], longer, initial=self._keys[same])
        self._ids = ids
        places = [*map(self._place.get, self._keys[1:], repeat(_NOWHERE)), _NOWHERE]
        known = places.index(_NOWHERE)
        return places[:known], self._keys[known]

    def copy(
        self, places: Sequence[int], tokens: Float[Tensor, "tokens sides heads dimensions"]
    ) -> None:
        """Write what is kept at some places to ``tokens``."""
        start = 0
        for end in range(1, len(places) + 1):
            if end == len(places) or places[end] != places[end - 1] + 1:
                tokens[start:end] = self._store[places[start] : places[end - 1] + 1]
                start = end

    def insert(
        self,
        key: int,
        ids: Sequence[int],
        tokens: Float[Tensor, "tokens sides heads dimensions"],
    ) -> int:
        """Keep tokens that follow the prefix of this key; the key of the whole."""
        runs: list[tuple[int, int, int]] = []
        for offset, token in enumerate(ids):
            key = longer(key, token)
            if key in self._place or not self._key:
                continue
            place = self._take(key)
            if runs and runs[-1][1:] == (offset, place):
                runs[-1] = (runs[-1][0], offset + 1, place + 1)
            else:
                runs.append((offset, offset + 1, place + 1))
        if runs and not len(self._store):
            self._store = tokens.new_empty(len(self._key), *tokens.shape[1:])
        # Slices: through lists of places it takes twice as long.
        for start, end, after in runs:
            self._store[after - (end - start) : after] = tokens[start:end]
        return key

    def _take(self, key: int) -> int:
        """A place for a key: the next in the ring, whoever held it."""
        place = self._next
        self._next = (place + 1) % len(self._key)
        if (old := self._key[place]) is not None:
            del self._place[old]
        self._key[place] = key
        self._place[key] = place
        return place
