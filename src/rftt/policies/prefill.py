"""Reading prompts into slots, as little of them as must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefix_pool import PrefixPool, longer

_PLACES_AT_ONCE: Final = 8192
"""Most ids, padding included, that are read in one forward pass."""
_PADDING: Final = 32
"""About as many ids as cost what another forward pass does."""


@frozen
class _Unread:
    """A prompt in its row, of which the first ``known`` ids are there already."""

    number: int
    row: int
    known: int
    key: int
    """Of the known prefix."""


@frozen
class Read:
    """Prompts that stand in the next rows, in the order of ``numbers``."""

    numbers: tuple[int, ...]
    keys: tuple[int, ...]
    """In the pool, of each whole prompt."""
    logits: Float[Tensor, "rows size"]


def read_prompts(
    prompts: Sequence[tuple[int, ...]],
    slots: KVSlots,
    pool: PrefixPool,
    first_row: int,
    held: Mapping[int, tuple[int, ...]],
) -> Iterator[Read]:
    """Put each prompt into a row of its own, and give the logits of what comes next.

    What the pool knows is copied, but for what a row still holds: ``held`` says what rows begin with.
    The rest is read in parts of like length, and goes into the pool.
    A beginning that several prompts share is read once: the others wait for it.

    Raises ``ValueError`` if a prompt is empty.
    """
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {number} is empty: a model needs one id to start from")
    slots.make_room(first_row + len(prompts), max(map(len, prompts)))
    waiting = list(range(len(prompts)))
    while waiting:
        wave, waiting = _wave(prompts, waiting, slots, pool, first_row, held)
        first_row += len(wave)
        for part in _parts(wave, prompts):
            yield _read(part, prompts, slots, pool)


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences have in common before they part."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _wave(
    prompts: Sequence[tuple[int, ...]],
    waiting: Sequence[int],
    slots: KVSlots,
    pool: PrefixPool,
    first_row: int,
    held: Mapping[int, tuple[int, ...]],
) -> tuple[list[_Unread], list[int]]:
    """Prompts to read now, shortest unread part first, and those that wait for what these share with
    them. The last id is always read: its logits are wanted."""
    claimed: set[int] = set()
    matches, later = [], []
    for number in waiting:
        prompt = prompts[number]
        places, key = pool.match(prompt[:-1])
        unread = len(prompt) - len(places)
        next_key = longer(key, prompt[len(places)])
        if unread > 1 and next_key in claimed:
            later.append(number)
        else:
            claimed.add(next_key)
            matches.append((unread, number, places, key))
    matches.sort(key=lambda match: match[:2])
    wave = []
    for row, (_, number, places, key) in enumerate(matches, start=first_row):
        wave.append(_Unread(number, row, len(places), key))
        there = min(shared(held.get(row, ()), prompts[number]), len(places))
        pool.copy(places[there:], slots.tokens(row, there, len(places)))
    return wave, later


def _parts(wave: Sequence[_Unread], prompts: Sequence[tuple[int, ...]]) -> Iterator[list[_Unread]]:
    part: list[_Unread] = []
    shorter = 0
    for item in wave:
        unread = len(prompts[item.number]) - item.known
        padding = len(part) * (unread - shorter)
        if padding > _PADDING or ((len(part) + 1) * unread > _PLACES_AT_ONCE and part):
            yield part
            part = []
        part.append(item)
        shorter = unread
    yield part


def _read(
    part: Sequence[_Unread], prompts: Sequence[tuple[int, ...]], slots: KVSlots, pool: PrefixPool
) -> Read:
    unread = [prompts[item.number][item.known :] for item in part]
    width = max(map(len, unread))
    ids = torch.tensor([(0,) * (width - len(u)) + u for u in unread], device=slots.model.device)
    lengths = torch.tensor([len(u) for u in unread], device=slots.model.device)
    starts = torch.tensor([item.known for item in part], device=slots.model.device)
    logits = slots.forward(part[0].row, starts, ids, lengths)
    pool.missed += sum(map(len, unread))
    keys = [
        pool.insert(item.key, u, slots.tokens(item.row, item.known, item.known + len(u)))
        for item, u in zip(part, unread, strict=True)
    ]
    numbers = tuple(item.number for item in part)
    return Read(numbers, tuple(keys), logits)
