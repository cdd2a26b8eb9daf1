"""Requests whose contexts are about as long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from rftt.policies.blocks import Block, one_each
from rftt.policies.distribution import Warp
from rftt.policies.draws import Draws
from rftt.policies.kv_slots import KVSlots
from rftt.policies.prefill import Unread, blocks_of, keep, shared, take_rows
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
    """Requests that have the same context and state, as samples of one step have at first, share a row
    of the slots until they draw different ids.

    A step of all that are in the lane is to read :meth:`blocks` and to :meth:`take` the logits. Member
    ``i`` is the first of those in row ``i``; after the last row's first come all others.
    """

    def __init__(self, slots: KVSlots, pool: PrefixPool, automaton: TokenAutomaton, warp: Warp) -> None:
        self._slots = slots
        self._pool = pool
        self._draws = Draws(automaton, warp, slots.model.device)
        self._waiting: dict[tuple[tuple[int, ...], int], list[Keyed]] = {}
        """By prompt and state, those of which the prompt has not been read."""
        self._reading: list[Unread] = []
        self._members: list[_Member] = []
        self._others: list[int] = []
        """Their rows."""
        self._held: dict[int, tuple[int, ...]] = {}
        """What rows begin with, whether they are in use or not."""

    def __len__(self) -> int:
        return len(self._members) + sum(map(len, self._waiting.values()))

    @property
    def _rows(self) -> int:
        return len(self._members) - len(self._others)

    def admit(self, requests: Sequence[Keyed]) -> None:
        """Take on requests."""
        for keyed in requests:
            context = keyed.request.prompt, keyed.request.state
            self._waiting.setdefault(context, []).append(keyed)

    def blocks(self) -> list[Block]:
        """What is to be read next: of each row the last id drawn, and prompts."""
        lengths = self._draws.lengths[: self._rows]
        longest = int(lengths.max()) + 1 if self._rows else 0
        prompts = [prompt for prompt, _ in self._waiting]
        # Every request may come to need a row of its own.
        self._slots.make_room(len(self), max([longest, *map(len, prompts)]))
        self._reading = take_rows(prompts, self._slots, self._pool, self._rows, self._held)
        blocks = list(blocks_of(self._reading, self._slots))
        if self._rows:
            blocks.insert(0, one_each(self._slots, lengths, self._draws.last[: self._rows, 0]))
        return blocks

    def take(self, logits: Float[Tensor, "rows size"]) -> list[tuple[int, Sample]]:
        """Draw an id for each that has been read; the samples that are finished."""
        self._join()
        self._draws.draw(logits, self._others)
        return self._retire()

    def _join(self) -> None:
        """Make members of those whose prompts have been read."""
        rows, count = self._rows, len(self._members)
        firsts, more = [], []
        contexts = list(self._waiting)
        prefixes = keep(self._reading, self._slots, self._pool)
        for item, prefix in zip(self._reading, prefixes, strict=True):
            first, *same = (_Member(keyed, prefix) for keyed in self._waiting.pop(contexts[item.number]))
            self._held[item.row] = item.prompt
            self._others += [item.row] * len(same)
            firsts.append(first)
            more += same
        if firsts:
            self._members += firsts + more
            self._draws.add([member.keyed.request for member in firsts + more])
            joined = range(count, count + len(firsts))
            rest = range(joined.stop, len(self._members))
            self._arrange([*range(rows), *joined, *range(rows, count), *rest])

    def _retire(self) -> list[tuple[int, Sample]]:
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
        if order != list(range(len(self._members))):
            self._members = [self._members[place] for place in order]
            self._draws.arrange(order)


def _rows_for(sources: Sequence[int]) -> list[int]:
    """For contexts that stand in these rows, rows from 0 on, each its own: where it stands if it can,
    so that little is copied, and nothing onto what is still to be copied."""
    stays = {row: number for number, row in reversed(list(enumerate(sources))) if row < len(sources)}
    free = (row for row in range(len(sources)) if row not in stays)
    return [row if stays.get(row) == number else next(free) for number, row in enumerate(sources)]
