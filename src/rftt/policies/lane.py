"""Requests whose contexts are about as long, in rows of keys and values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from rftt.policies.blocks import Block, one_each
from rftt.policies.draws import Draws
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefill import Unread, blocks_of, keep, shared, take_rows
from rftt.policies.prefix_pool import PrefixPool
from rftt.policies.sampler import Sample, SampleRequest


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
    """Requests that have the same context and state, as samples of one step have at first, share a row
    until they draw different ids.

    A step is to read :meth:`blocks`, to :meth:`join` those whose prompts are among them, to draw an id
    for each in :attr:`rows`, and to :meth:`retire` those that are finished.

    Attributes:
        rows: for each row of the slots that is in use, the places of its requests in the draws.
    """

    def __init__(self, slots: KVSlots, pool: PrefixPool, draws: Draws) -> None:
        self._slots = slots
        self._pool = pool
        self._draws = draws
        self._waiting: dict[tuple[tuple[int, ...], int], list[Keyed]] = {}
        """By prompt and state, those of which the prompt has not been read."""
        self._reading: list[Unread] = []
        self._members: dict[int, _Member] = {}
        self._held: dict[int, tuple[int, ...]] = {}
        """What rows begin with, whether they are in use or not."""
        self.rows: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._members) + sum(map(len, self._waiting.values()))

    def admit(self, requests: Iterable[Keyed]) -> None:
        """Take on requests."""
        for keyed in requests:
            context = keyed.request.prompt, keyed.request.state
            self._waiting.setdefault(context, []).append(keyed)

    def blocks(self) -> list[Block]:
        """What is to be read next: of each row the last id drawn, and prompts."""
        blocks = []
        prompts = [prompt for prompt, _ in self._waiting]
        longest = max(map(len, prompts), default=0)
        if self.rows:
            block = one_each(self._slots, *self._draws.unread([row[0] for row in self.rows]))
            longest = max(longest, block.width)
            blocks.append(block)
        # Every request may come to need a row of its own.
        self._slots.make_room(len(self), longest)
        self._reading = take_rows(prompts, self._slots, self._pool, len(self.rows), self._held)
        return [*blocks, *blocks_of(self._reading, self._slots)]

    def join(self) -> None:
        """Give rows to those whose prompts have been read."""
        contexts = list(self._waiting)
        same = [self._waiting.pop(contexts[item.number]) for item in self._reading]
        places = iter(self._draws.add([keyed.request for row in same for keyed in row]))
        prefixes = keep(self._reading, self._slots, self._pool)
        for item, row, prefix in zip(self._reading, same, prefixes, strict=True):
            members = {next(places): _Member(keyed, prefix) for keyed in row}
            self._members |= members
            self._held[item.row] = item.prompt
            self.rows.append(list(members))

    def retire(self, finished: Mapping[int, Sample]) -> list[tuple[int, Sample]]:
        """Take out those of the finished that are here; give each context of the rest one row."""
        done = []
        for number, row in enumerate(self.rows):
            for place in row:
                if (sample := finished.get(place)) is not None:
                    member = self._members.pop(place)
                    # The last id was drawn but never read.
                    read, start = sample.ids[:-1], len(member.keyed.request.prompt)
                    tokens = self._slots.tokens(number, start, start + len(read))
                    self._pool.insert(member.prefix, read, tokens)
                    done.append((member.keyed.key, sample))
        if done or len(self._members) > len(self.rows):
            self._share_rows()
        return done

    def _share_rows(self) -> None:
        contexts = self._contexts()
        targets = _rows_for([row for row, _ in contexts])
        moved = [
            (*context, target)
            for context, target in zip(contexts, targets, strict=True)
            if context[0] != target
        ]
        lengths, _ = self._draws.unread([places[0] for _, places, _ in moved])
        for (source, places, target), length in zip(moved, lengths.tolist(), strict=True):
            prompt = self._members[places[0]].keyed.request.prompt
            # What both begin with need not be copied: all prompts may begin with the same examples.
            start = shared(self._held.get(target, ()), prompt)
            self._slots.move(source, target, start, length)
            self._held[target] = prompt
        self.rows = [[]] * len(contexts)
        for (_, places), target in zip(contexts, targets, strict=True):
            self.rows[target] = places

    def _contexts(self) -> list[tuple[int, list[int]]]:
        """The requests that go on and have the same context, and the row where that is."""
        together = [place for row in self.rows if len(row) > 1 for place in row]
        _, drawn = self._draws.unread(together)
        last = dict(zip(together, drawn.tolist(), strict=True))
        contexts: defaultdict[tuple[int, int | None], list[int]] = defaultdict(list)
        for number, row in enumerate(self.rows):
            for place in row:
                if place in self._members:
                    contexts[number, last.get(place)].append(place)
        return [(number, places) for (number, _), places in contexts.items()]


def _rows_for(sources: Sequence[int]) -> list[int]:
    """For contexts that stand in these rows, rows from 0 on, each its own: where it stands if it can,
    so that little is copied, and nothing onto what is still to be copied."""
    stays = {row: number for number, row in reversed(list(enumerate(sources))) if row < len(sources)}
    free = (row for row in range(len(sources)) if row not in stays)
    return [row if stays.get(row) == number else next(free) for number, row in enumerate(sources)]
