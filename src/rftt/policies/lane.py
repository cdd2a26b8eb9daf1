"""Requests that are decoded in one forward pass."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from rftt.policies.distribution import Warp
from rftt.policies.draws import Draws
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefill import read_prompts, shared
from rftt.policies.prefix_pool import PrefixPool
from rftt.policies.sampler import Sample, SampleRequest
from rftt.tokens.automaton import TokenAutomaton


@frozen
class Keyed:
    """A request, and the key that its sample is returned under."""

    key: int
    request: SampleRequest


@frozen
class _Member:
    keyed: Keyed
    prefix: int
    """The prompt's key in the pool."""


class Lane:
    """Requests that have the same context, as samples of one step have at first, share a row of the
    slots until they draw different ids.

    Member ``i`` is the first of those in row ``i``; after the last row's first come all others.
    """

    def __init__(self, slots: KVSlots, pool: PrefixPool, automaton: TokenAutomaton, warp: Warp) -> None:
        self._slots = slots
        self._pool = pool
        self._draws = Draws(automaton, warp, slots.model.device)
        self._members: list[_Member] = []
        self._others: list[int] = []
        """Their rows."""
        self._held: dict[int, tuple[int, ...]] = {}
        """What rows begin with, whether they are in use or not."""

    def __len__(self) -> int:
        return len(self._members)

    @property
    def _rows(self) -> int:
        return len(self._members) - len(self._others)

    def admit(self, requests: Sequence[Keyed]) -> None:
        """Read the prompts and draw the first id of each."""
        rows, count, others = self._rows, len(self), len(self._others)
        alike: defaultdict[tuple[int, ...], list[Keyed]] = defaultdict(list)
        for keyed in requests:
            alike[keyed.request.prompt].append(keyed)
        prompts = list(alike)
        # Each may come to need a row of its own.
        self._slots.make_room(count + len(requests), max(map(len, prompts)))
        reads = list(read_prompts(prompts, self._slots, self._pool, rows, self._held))
        firsts, more = [], []
        for read in reads:
            for number, prefix in zip(read.numbers, read.keys, strict=True):
                first, *same = (_Member(keyed, prefix) for keyed in alike[prompts[number]])
                row = rows + len(firsts)
                self._held[row] = prompts[number]
                self._others += [row] * len(same)
                firsts.append(first)
                more += same
        self._members += firsts + more
        self._draws.add([member.keyed.request for member in firsts + more])
        in_rows = range(count, count + len(firsts))
        self._arrange([*range(rows), *in_rows, *range(rows, count), *range(in_rows.stop, len(self))])
        self._draw(torch.cat([read.logits for read in reads]), rows, others)

    def decode(self) -> None:
        """Draw one more id for each member."""
        lengths, last = self._draws.lengths[: self._rows], self._draws.last[: self._rows]
        self._slots.make_room(len(self), int(lengths.max()) + 1)
        self._draw(self._slots.forward(0, lengths, last, torch.ones_like(lengths)), 0, 0)

    def retire(self) -> list[tuple[int, Sample]]:
        """Take out those that are finished, and give each context of the rest one row."""
        finished = self._draws.finished()
        done = []
        for place, sample in finished.items():
            member = self._members[place]
            # The last id was drawn but never read.
            read, start = sample.ids[:-1], len(member.keyed.request.prompt)
            tokens = self._slots.tokens(self._row(place), start, start + len(read))
            self._pool.insert(member.prefix, read, tokens)
            done.append((member.keyed.key, sample))
        if finished or self._others:
            self._share_rows(finished)
        return done

    def _row(self, place: int) -> int:
        return place if place < self._rows else self._others[place - self._rows]

    def _draw(self, logits: Float[Tensor, "rows size"], row: int, other: int) -> None:
        """Draw for the first members of rows from ``row`` on, and for others from ``other`` on."""
        theirs = logits[[of - row for of in self._others[other:]]]
        self._draws.draw(slice(row, self._rows), logits)
        if len(theirs):
            self._draws.draw(slice(self._rows + other, len(self)), theirs)

    def _share_rows(self, gone: Collection[int]) -> None:
        contexts: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for place, last in enumerate(self._draws.last[:, 0].tolist()):
            if place not in gone:
                contexts[self._row(place), last].append(place)
        sources = [row for row, _ in contexts]
        targets = _rows_for(sources)
        lengths = self._draws.lengths.tolist()
        others: list[tuple[int, int]] = []
        firsts = [0] * len(contexts)
        for source, target, places in zip(sources, targets, contexts.values(), strict=True):
            firsts[target] = places[0]
            others += [(target, place) for place in places[1:]]
            if source != target:
                prompt = self._members[places[0]].keyed.request.prompt
                # What both begin with need not be copied: all prompts may begin with the same examples.
                start = shared(self._held.get(target, ()), prompt)
                self._slots.move(source, target, start, lengths[places[0]])
                self._held[target] = prompt
        self._others = [row for row, _ in others]
        self._arrange(firsts + [place for _, place in others])

    def _arrange(self, order: Sequence[int]) -> None:
        if order != list(range(len(self))):
            self._members = [self._members[place] for place in order]
            self._draws.arrange(order)


def _rows_for(sources: Sequence[int]) -> list[int]:
    """For contexts that stand in these rows, rows from 0 on, each its own: where it stands if it can,
    so that little is copied, and nothing onto what is still to be copied."""
    stays = {row: number for number, row in reversed(list(enumerate(sources))) if row < len(sources)}
    free = (row for row in range(len(sources)) if row not in stays)
    return [row if stays.get(row) == number else next(free) for number, row in enumerate(sources)]
