"""Which rows contexts stand in, so that few are copied from row to row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from typing import Final

_LOOKED_AT: Final = 64
"""Most ways to seat prompts that are looked at."""


def stay(contexts: Sequence[int | None], rows: Sequence[int]) -> list[int]:
    """For each of some contexts its own of as many rows or more: where it stands, if it can, and no
    other goes there."""
    room = set(rows)
    stays = {row: number for number, row in enumerate(contexts) if row is not None and row in room}
    goes = dict(zip(stays.values(), stays, strict=True))
    free = (row for row in rows if row not in stays)
    return [goes[number] if number in goes else next(free) for number in range(len(contexts))]


def even_rows(many: int, used: set[int], wanted: set[int | None], count: int) -> range:
    """So many rows at an even distance, of the first ``count``: few that are used, many that are wanted.
    As many as ``many`` must not be used."""
    if not many:
        return range(0)
    free = [row for row in range(count) if row not in used]

    def gain(rows: range) -> int:
        return len(wanted.intersection(rows)) - len(used.intersection(rows))

    return max(islice(_even(many, free, count), _LOOKED_AT), key=gain)


def _even(many: int, free: Sequence[int], count: int) -> Iterator[range]:
    yield range(free[0], free[0] + many)
    for one, other in combinations(free, 2):
        step = other - one
        before = (many - 1) * step
        for first in (one, other - before):
            if first >= 0 and first + before < count:
                yield range(first, first + before + 1, step)
