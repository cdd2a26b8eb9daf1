"""Reading prompts into slots, as little of them as must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Final

from attrs import frozen

from rftt.policies.blocks import Block, several_each
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefix_pool import PrefixPool, longer

_IDS_AT_ONCE: Final = 8192
"""Most ids of prompts that are read in one forward pass."""


@frozen
class Unread:
    """A prompt in its row, of which the first ``known`` ids are there already; ``number`` is its place
    among those that were given."""

    number: int
    prompt: tuple[int, ...]
    row: int
    known: int
    key: int
    """Of the known prefix, in the pool."""

    @property
    def ids(self) -> tuple[int, ...]:
        """What is to be read."""
        return self.prompt[self.known :]


def refuse_empty(number: int, prompt: Sequence[int]) -> None:
    """Raises ``ValueError`` if a prompt, the one of this number, is empty."""
    if not prompt:
        raise ValueError(f"prompt {number} is empty: a model needs one id to start from")


def take_rows(
    prompts: Sequence[tuple[int, ...]],
    slots: KVSlots,
    pool: PrefixPool,
    first: int,
    held: Mapping[int, tuple[int, ...]],
) -> list[Unread]:
    """Put prompts into the rows from ``first`` on, in which there must be room, shortest
    unread part first.

    What the pool knows is copied, but for what a row still holds: ``held`` says what rows begin with.
    The last id is always read: its logits are wanted. A beginning that several prompts share is read
    once: the others are left out, to be given another time, and so is what is too much for one pass.
    """
    claimed: set[int] = set()
    matches: list[tuple[int, int, list[int], int]] = []
    left = _IDS_AT_ONCE
    for number, prompt in enumerate(prompts):
        places, key = pool.match(prompt[:-1])
        unread = len(prompt) - len(places)
        next_key = longer(key, prompt[len(places)])
        if (unread > 1 and next_key in claimed) or (unread > left and matches):
            continue
        left -= unread
        claimed.add(next_key)
        matches.append((unread, number, places, key))
    matches.sort(key=itemgetter(0))
    taken = []
    for row, (_, number, places, key) in enumerate(matches, start=first):
        prompt = prompts[number]
        taken.append(Unread(number, prompt, row, len(places), key))
        there = min(shared(held.get(row, ()), prompt), len(places))
        pool.copy(places[there:], slots.tokens(row, there, len(places)))
    return taken


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences have in common before they part."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def blocks_of(taken: Sequence[Unread], slots: KVSlots) -> Iterator[Block]:
    """Blocks of rows that have about as many ids to read: attention looks at as many of each as the row
    with most of them has."""
    part: list[Unread] = []
    for item in taken:
        if part and len(item.ids) > 2 * len(part[0].ids):
            yield _block(part, slots)
            part = []
        part.append(item)
    if part:
        yield _block(part, slots)


def _block(part: Sequence[Unread], slots: KVSlots) -> Block:
    return several_each(slots, part[0].row, [i.known for i in part], [i.ids for i in part])


def keep(taken: Iterable[Unread], slots: KVSlots, pool: PrefixPool) -> list[int]:
    """Put what has been read into the pool; the keys of the whole prompts there."""
    keys = []
    for item in taken:
        end = len(item.prompt)
        pool.missed += end - item.known
        keys.append(pool.insert(item.key, item.ids, slots.tokens(item.row, item.known, end)))
    return keys
