"""Requests whose contexts are about as long, in rows of keys and values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from attrs import frozen

from rftt.policies.blocks import Block, last_of_each
from rftt.policies.draws import Draws
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefill import Reading, Unread, blocks_of, choose, copy_known, keep, seat, seated
from rftt.policies.prefix_pool import PrefixPool
from rftt.policies.sampler import Sample, SampleRequest
from rftt.policies.seating import even_rows, stay


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
        self._reading: list[Reading] = []
        """Prompts that have rows, and of which only the beginnings have been read."""
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
        copy_known(self._reading, self._slots, self._pool)
        return [
            last_of_each(self._slots, starts, last),
            *blocks_of(self._reading, self._slots),
        ]

    def retire(self, finished: Mapping[int, Sample]) -> list[tuple[int, Sample]]:
        """Take out those of the finished that are here, when the blocks have been read."""
        keep(self._reading, self._slots, self._pool)
        self._reading = []
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
        groups = choose([prompt for prompt, _ in waiting], self._pool)
        if not groups and not self._left and len(self._members) == len(self.rows):
            return []
        going_on = self._contexts()
        sources = [row for row, _ in going_on]
        self._reading = self._seat(groups, sources)
        self._left = {}
        new = dict(seated(self._reading))
        count = len(sources) + len(new)
        targets = stay(sources, [row for row in range(count) if row not in new])
        self.rows = [[]] * count
        for (_, places), target in zip(going_on, targets, strict=True):
            self.rows[target] = places
        for row, item in new.items():
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

    def _seat(self, groups: Sequence[Sequence[Unread]], sources: Sequence[int]) -> list[Reading]:
        """Rows for prompts: if it can be, those that were just left with what they go on with. A group's
        are at an even distance, as any two are; for larger ones, contexts may have to make room."""
        small = [group for group in groups if len(group) <= 2]
        large = [group for group in groups if len(group) > 2]
        count = len(sources) + sum(map(len, groups))
        used = set(sources)
        wanted = [self._wanted(group) for group in large]
        even = even_rows(sum(map(len, large)), used, set(chain(*wanted)), count)
        rows: list[int] = []
        for those in wanted:
            rows += stay(those, even[len(rows) : len(rows) + len(those)])
        rest = [row for row in range(count) if row not in used and row not in even]
        return seat([*large, *small], rows + stay(self._wanted(chain(*small)), rest))

    def _wanted(self, items: Iterable[Unread]) -> list[int | None]:
        """The rows that were just left with what prompts go on with."""
        return [self._left.get(item.key) for item in items]
