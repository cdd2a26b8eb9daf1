"""Reading prompts into slots, as little of them as must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import chain, islice
from operator import itemgetter
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


@frozen
class Reading:
    """Prompts that are read side by side, and their rows."""

    items: Sequence[Unread]
    rows: range


def seated(readings: Iterable[Reading]) -> Iterator[tuple[int, Unread]]:
    """Each row with its prompt."""
    return chain.from_iterable(zip(each.rows, each.items, strict=True) for each in readings)


def choose(prompts: Sequence[tuple[int, ...]], pool: PrefixPool) -> list[list[Unread]]:
    """Those of the prompts that are to be read next, in groups whose unread parts are about as long:
    attention looks at as many ids of each as the longest of them has. Shorter ones come first.

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
    groups: list[list[Unread]] = []
    for item in sorted(chosen, key=lambda item: len(item.ids)):
        fewest = len(groups[-1][0].ids) if groups else 0
        if fewest > 1 and len(item.ids) <= 2 * fewest:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def seat(groups: Iterable[Sequence[Unread]], rows: Iterable[int]) -> list[Reading]:
    """Groups in the next of these rows; each group's are at an even distance once they are sorted."""
    rest = iter(rows)
    readings = []
    for group in groups:
        placed = sorted(zip(islice(rest, len(group)), group, strict=True), key=itemgetter(0))
        numbers, items = zip(*placed, strict=True)
        step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
        readings.append(Reading(items, range(numbers[0], numbers[-1] + 1, step)))
    return readings


def copy_known(readings: Iterable[Reading], slots: KVSlots, pool: PrefixPool) -> None:
    """Put what the pool knows into the rows, in which there must be room, but for what a row still
    holds."""
    for row, item in seated(readings):
        known = item.prompt[: item.known]
        there = slots.known(row, known)
        pool.copy(item.places[there:], slots.tokens(row, there, item.known))
        slots.held[row] = known


def blocks_of(readings: Iterable[Reading], slots: KVSlots) -> Iterator[Block]:
    """What is to be read before the last ids."""
    for reading in readings:
        if len(reading.items[0].ids) > 1:
            starts, new = zip(*[(item.known, item.ids[:-1]) for item in reading.items], strict=True)
            yield before_the_last(slots, reading.rows, starts, new)


def keep(readings: Iterable[Reading], slots: KVSlots, pool: PrefixPool) -> None:
    """Put what has been read into the pool."""
    for row, item in seated(readings):
        slots.held[row] = item.prompt
        end = len(item.prompt)
        pool.missed += end - item.known
        pool.insert(item.key, item.ids, slots.tokens(row, item.known, end))
