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


def copy_known(chosen: Iterable[Unread], slots: KVSlots, pool: PrefixPool, rows: range) -> None:
    """Put what the pool knows into these rows, in which there must be room, but for what a row still
    holds."""
    for row, item in zip(rows, chosen, strict=True):
        known = item.prompt[: item.known]
        there = slots.known(row, known)
        pool.copy(item.places[there:], slots.tokens(row, there, item.known))
        slots.held[row] = known


def blocks_of(chosen: Sequence[Unread], slots: KVSlots, rows: range) -> Iterator[Block]:
    """What is to be read before the last ids, in blocks of rows that have about as many: attention looks
    at as many of each as the row with most of them has."""
    start = 0
    for end in range(1, len(chosen) + 1):
        if end == len(chosen) or not _alike(chosen[start], chosen[end]):
            if len(chosen[start].ids) > 1:
                yield _block(chosen[start:end], slots, rows[start:end])
            start = end


def _alike(a: Unread, b: Unread) -> bool:
    fewer, more = sorted((len(a.ids), len(b.ids)))
    return fewer > 1 and more <= 2 * fewer


def _block(part: Sequence[Unread], slots: KVSlots, rows: range) -> Block:
    return before_the_last(slots, rows, [i.known for i in part], [i.ids[:-1] for i in part])


def keep(chosen: Iterable[Unread], slots: KVSlots, pool: PrefixPool, rows: range) -> None:
    """Put what has been read into the pool."""
    for row, item in zip(rows, chosen, strict=True):
        slots.held[row] = item.prompt
        end = len(item.prompt)
        pool.missed += end - item.known
        pool.insert(item.key, item.ids, slots.tokens(row, item.known, end))
