"""Requests whose contexts are about as long, in rows of keys and values."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from rftt.policies.blocks import Block, last_of_each
from rftt.policies.draws import Draws
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefill import Unread, blocks_of, choose, copy_known, keep
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

    A step is to read :meth:`blocks`, to draw an id for each in :attr:`rows`, and to :meth:`retire` those
    that are finished.

    Attributes:
        rows: for each row of the slots that is in use, the places of its requests in the draws.
    """

    def __init__(self, slots: KVSlots, pool: PrefixPool, draws: Draws) -> None:
        self._slots = slots
        self._pool = pool
        self._draws = draws
        self._waiting: dict[tuple[tuple[int, ...], int], list[Keyed]] = {}
        """By prompt and state, those that have no row yet."""
        self._reading: list[Unread] = []
        """Prompts in the rows of `_place`, of which only the beginnings have been read."""
        self._place = range(0)
        self._members: dict[int, _Member] = {}
        """By place, those in rows."""
        self._left: dict[int, int] = {}
        """By key in the pool, rows where such a context ended in the last step."""
        self.rows: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._members) + sum(map(len, self._waiting.values()))

    def admit(self, requests: Iterable[Keyed]) -> None:
        """Take on requests."""
        for keyed in requests:
            context = keyed.request.prompt, keyed.request.state
            self._waiting.setdefault(context, []).append(keyed)

    def blocks(self) -> list[Block]:
        """What is to be read next: the last id of each row, and what comes before it in new ones."""
        # A pass that failed is tried again.
        moves = [] if self._reading else self._fill_rows()
        starts, last = self._draws.ends([row[0] for row in self.rows])
        # Every request may come to need a row of its own.
        self._slots.make_room(len(self), int(starts.max()) + 1)
        for source, target in moves:
            self._slots.move(source, target, int(starts[target]))
        copy_known(self._reading, self._slots, self._pool, self._place)
        return [
            last_of_each(self._slots, starts, last),
            *blocks_of(self._reading, self._slots, self._place),
        ]

    def retire(self, finished: Mapping[int, Sample]) -> list[tuple[int, Sample]]:
        """Take out those of the finished that are here, when the blocks have been read."""
        keep(self._reading, self._slots, self._pool, self._place)
        self._reading, self._place = [], range(0)
        done = []
        for number, row in enumerate(self.rows):
            for place in row:
                if (sample := finished.get(place)) is not None:
                    member = self._members.pop(place)
                    prompt = member.keyed.request.prompt
                    # The last id was drawn but never read.
                    read = sample.ids[:-1]
                    self._slots.held[number] = context = prompt + read
                    tokens = self._slots.tokens(number, len(prompt), len(context))
                    self._left[self._pool.insert(member.prefix, read, tokens)] = number
                    done.append((member.keyed.key, sample))
        return done

    def _fill_rows(self) -> list[tuple[int, int]]:
        """Give each context a row: those that go on, and new ones, at even distances. What must be
        copied: from which rows to which."""
        waiting = list(self._waiting)
        self._reading = choose([prompt for prompt, _ in waiting], self._pool)
        if not self._reading and not self._left and len(self._members) == len(self.rows):
            return []
        going_on = self._contexts()
        sources = [row for row, _ in going_on]
        count = len(sources) + len(self._reading)
        self._place = self._two(sources) if len(self._reading) <= 2 else self._neighbours(sources)
        self._left = {}
        targets = _rows_for(sources, [row for row in range(count) if row not in self._place])
        self.rows = [[]] * count
        for (_, places), target in zip(going_on, targets, strict=True):
            self.rows[target] = places
        for row, item in zip(self._place, self._reading, strict=True):
            same = self._waiting.pop(waiting[item.number])
            self.rows[row] = places = self._draws.add([keyed.request for keyed in same])
            members = (_Member(keyed, item.whole) for keyed in same)
            self._members |= zip(places, members, strict=True)
        return [move for move in zip(sources, targets, strict=True) if move[0] != move[1]]

    def _contexts(self) -> list[tuple[int, list[int]]]:
        """The requests that go on and have the same context, and the row where that is."""
        together = [place for row in self.rows if len(row) > 1 for place in row]
        last = dict(zip(together, self._draws.ends(together)[1].tolist(), strict=True))
        contexts: list[tuple[int, list[int]]] = []
        for number, row in enumerate(self.rows):
            going_on = [place for place in row if place in self._members]
            if len(going_on) < 2:
                contexts += [(number, going_on)] if going_on else []
                continue
            by_last: defaultdict[int, list[int]] = defaultdict(list)
            for place in going_on:
                by_last[last[place]].append(place)
            contexts += [(number, places) for places in by_last.values()]
        return contexts

    def _two(self, sources: Sequence[int]) -> range:
        """Rows for no more than two prompts, which are at an even distance wherever they are: those that
        were just left with what a prompt goes on with, and others that are free. Puts the prompts in
        their order."""
        used, left = set(sources), [self._left.get(item.key) for item in self._reading]
        free = [row for row in range(len(sources) + len(left)) if row not in used]
        rows = sorted(sorted(free, key=lambda row: row not in left)[: len(left)])
        if not rows:
            return range(0)
        first, last = rows[0], rows[-1]
        if left[0] == last or left[-1] == first:
            self._reading.reverse()
        return range(first, last + 1, max(1, last - first))

    def _neighbours(self, sources: Sequence[int]) -> range:
        """Rows for more prompts: where the most of them go on with what a row was just left with and the
        fewest of those that go on, which are in these rows, must make room; else behind them all."""
        there = Counter(
            self._left[item.key] - number
            for number, item in enumerate(self._reading)
            if item.key in self._left
        )

        def copies(first: int) -> int:
            after = first + len(self._reading)
            return bisect_left(sources, after) - bisect_left(sources, first) - there[first]

        behind = len(sources)
        first = min((first for first in (behind, *there) if 0 <= first <= behind), key=copies)
        return range(first, first + len(self._reading))


def _rows_for(sources: Sequence[int], rows: Sequence[int]) -> list[int]:
    """For contexts that stand in rows, each its own of as many: where it stands if it can, so that
    little is copied, and nothing onto what is still to be copied."""
    room = set(rows)
    stays = {row: number for number, row in reversed(list(enumerate(sources))) if row in room}
    free = (row for row in rows if row not in stays)
    return [row if stays.get(row) == number else next(free) for number, row in enumerate(sources)]
