"""Reading prompts into slots, as little of them as must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Final

from attrs import frozen

from rftt.policies.blocks import Block, before_the_last
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefix_pool import PrefixPool, longer

_IDS_AT_ONCE: Final = 8192
"""Most ids of prompts that are read in one forward pass."""


@frozen
class Unread:
    """A prompt to be read, one of those that were given. The last id is always read: its logits are
    wanted."""

    number: int
    """Its place among those that were given."""
    prompt: tuple[int, ...]
    places: list[int]
    """Of the known prefix, in the pool."""
    key: int
    """Of the known prefix, in the pool."""

    @property
    def known(self) -> int:
        """How many ids the pool knows."""
        return len(self.places)

    @property
    def ids(self) -> tuple[int, ...]:
        """What is to be read."""
        return self.prompt[self.known :]

    @property
    def whole(self) -> int:
        """The key of the whole prompt."""
        return reduce(longer, self.ids, self.key)


def refuse_empty(number: int, prompt: Sequence[int]) -> None:
    """Raises ``ValueError`` if a prompt, the one of this number, is empty."""
    if not prompt:
        raise ValueError(f"prompt {number} is empty: a model needs one id to start from")


def choose(prompts: Sequence[tuple[int, ...]], pool: PrefixPool) -> list[Unread]:
    """Those of the prompts that are to be read next, shortest unread part first.

    A beginning that several prompts share is read once: the others are left out, to be given another
    time, and so is what is too much for one pass.
    """
    claimed: set[int] = set()
    chosen: list[Unread] = []
    left = _IDS_AT_ONCE
    for number, prompt in enumerate(prompts):
        item = Unread(number, prompt, *pool.match(prompt[:-1]))
        unread = len(prompt) - item.known
        next_key = longer(item.key, prompt[item.known])
        if (unread > 1 and next_key in claimed) or (unread > left and chosen):
            continue
        left -= unread
        claimed.add(next_key)
        chosen.append(item)
    return sorted(chosen, key=lambda item: len(item.prompt) - item.known)


def copy_known(chosen: Iterable[Unread], slots: KVSlots, pool: PrefixPool, first: int) -> None:
    """Put what the pool knows into the rows from ``first`` on, in which there must be room, but for what
    a row still holds."""
    for row, item in enumerate(chosen, start=first):
        known = item.prompt[: item.known]
        there = slots.known(row, known)
        pool.copy(item.places[there:], slots.tokens(row, there, item.known))
        slots.held[row] = known


def blocks_of(chosen: Iterable[Unread], slots: KVSlots, first: int) -> Iterator[Block]:
    """What is to be read before the last ids, in blocks of rows that have about as many: attention looks
    at as many of each as the row with most of them has."""
    part: list[Unread] = []
    for row, item in enumerate(chosen, start=first):
        if part and len(item.ids) > 2 * len(part[0].ids):
            yield _block(part, slots, row - len(part))
            part = []
        if len(item.ids) > 1:
            part.append(item)
    if part:
        yield _block(part, slots, row + 1 - len(part))


def _block(part: Sequence[Unread], slots: KVSlots, first: int) -> Block:
    return before_the_last(slots, first, [i.known for i in part], [i.ids[:-1] for i in part])


def keep(chosen: Iterable[Unread], slots: KVSlots, pool: PrefixPool, first: int) -> None:
    """Put what has been read into the pool."""
    for row, item in enumerate(chosen, start=first):
        slots.held[row] = item.prompt
        end = len(item.prompt)
        pool.missed += end - item.known
        pool.insert(item.key, item.ids, slots.tokens(row, item.known, end))
