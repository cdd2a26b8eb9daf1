"""Which slot of the KV cache each group of requests has."""

from __future__ import annotations

from collections.abc import Sequence

from rftt.samplers.transformers.batch import SequenceGroup

Source = int | Sequence[int]
"""Where the beginning of a group's context is: a slot, or places in the prefix cache."""


def assign_slots(
    slots: Sequence[SequenceGroup | None], pending: Sequence[tuple[SequenceGroup, Source]]
) -> list[tuple[SequenceGroup, Source]]:
    """Give each pending group a slot: the one that holds its beginning if that is free, else any. Then
    the last groups move to slots that are still free, so that those in use are the first ones.

    Args:
        slots: the groups that have a slot.
        pending: those that need one, and where their beginnings are.

    Returns:
        For each slot, its group and where what it is to hold is now.
    """
    placed: list[tuple[SequenceGroup, Source] | None] = [
        None if group is None else (group, slot) for slot, group in enumerate(slots)
    ]
    others = []
    for group, source in pending:
        if isinstance(source, int) and placed[source] is None:
            placed[source] = group, source
        else:
            others.append((group, source))
    number = len(others) + sum(pair is not None for pair in placed)
    placed += [None] * (number - len(placed))
    free = iter([slot for slot, pair in enumerate(placed) if pair is None])
    for pair, slot in zip(others, free, strict=False):
        placed[slot] = pair
    for slot in free:
        while placed[-1] is None:
            placed.pop()
        if slot < len(placed):
            placed[slot] = placed.pop()
    return [pair for pair in placed if pair is not None]
