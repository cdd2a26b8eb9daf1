"""Rows that are decoded in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from rftt.policies.distribution import Warp, draw
from rftt.policies.kv_slots import KVSlots
from rftt.policies.noise import uniform
from rftt.policies.prefill import read_prompts, shared
from rftt.policies.prefix_pool import PrefixPool
from rftt.policies.sampler import Sample, SampleRequest
from rftt.tokens.automaton import END, TokenAutomaton


@frozen
class Keyed:
    """A request, and the key that its sample is returned under."""

    key: int
    request: SampleRequest


@frozen
class _Row:
    keyed: Keyed
    prefix: int
    """The prompt's key in the pool."""


class Lane:
    """Row ``i`` of each tensor is row ``i`` of the slots."""

    def __init__(self, slots: KVSlots, pool: PrefixPool, automaton: TokenAutomaton, warp: Warp) -> None:
        self._slots = slots
        self._pool = pool
        self._automaton = automaton
        self._all_allowed = bool(automaton.allowed.all())
        self._warp = warp
        self._rows: list[_Row] = []
        self._held: dict[int, tuple[int, ...]] = {}
        """What rows that are not in use still begin with."""
        # Per row: the automaton's state, seed, most ids, ids drawn, length with the prompt.
        self._columns = torch.zeros(5, 0, dtype=torch.int64, device=slots.model.device)
        self._ids = torch.zeros(0, 0, dtype=torch.int64, device=slots.model.device)
        self._log_probs = torch.zeros(0, 0, device=slots.model.device)

    def __len__(self) -> int:
        return len(self._rows)

    def admit(self, requests: Sequence[Keyed]) -> None:
        """Read the prompts and draw the first id of each."""
        first = len(self)
        width = max(self._ids.shape[1], max(keyed.request.max_tokens for keyed in requests))
        more = (0, width - self._ids.shape[1], 0, len(requests))
        self._ids = torch.nn.functional.pad(self._ids, more)
        self._log_probs = torch.nn.functional.pad(self._log_probs, more)
        self._columns = torch.nn.functional.pad(self._columns, (0, len(requests)))
        prompts = [keyed.request.prompt for keyed in requests]
        reads = list(read_prompts(prompts, self._slots, self._pool, first, self._held))
        chosen = [requests[number] for read in reads for number in read.numbers]
        self._rows += map(_Row, chosen, [key for read in reads for key in read.keys])
        asked = [keyed.request for keyed in chosen]
        self._columns[:, first:] = torch.tensor(
            [[r.state, r.seed, r.max_tokens, 0, len(r.prompt)] for r in asked],
            device=self._slots.model.device,
        ).T
        self._draw(slice(first, len(self)), torch.cat([read.logits for read in reads]))

    def decode(self) -> None:
        """Draw one more id for each row."""
        *_, drawn, lengths = self._columns
        self._slots.make_room(len(self), int(lengths.max()) + 1)
        last = self._ids.gather(1, drawn[:, None] - 1)
        logits = self._slots.forward(0, lengths, last, torch.ones_like(lengths))
        lengths += 1
        self._draw(slice(0, len(self)), logits)

    def retire(self) -> list[tuple[int, Sample]]:
        """Take finished rows out, and fill their places with the last ones."""
        states, _, limits, drawn, _ = self._columns
        finished = ((states == END) | (drawn >= limits)).nonzero()[:, 0]
        if not len(finished):
            return []
        counts = drawn[finished].tolist()
        samples = [
            Sample(tuple(ids[:count]), tuple(log_probs[:count]))
            for ids, log_probs, count in zip(
                self._ids[finished].tolist(), self._log_probs[finished].tolist(), counts, strict=True
            )
        ]
        places = finished.tolist()
        gone = [self._rows[place] for place in places]
        for place, row, sample in zip(places, gone, samples, strict=True):
            # The last id was drawn but never read.
            read, start = sample.ids[:-1], len(row.keyed.request.prompt)
            tokens = self._slots.tokens(place, start, start + len(read))
            self._pool.insert(row.prefix, read, tokens)
        self._close_gaps(places)
        return [(row.keyed.key, sample) for row, sample in zip(gone, samples, strict=True)]

    def _draw(self, rows: slice, logits: Float[Tensor, "rows size"]) -> None:
        """Draw one id for each row and take note of it."""
        states, seeds, _, drawn, _ = self._columns[:, rows]
        allowed = None if self._all_allowed else self._automaton.allowed[states]
        ids, log_probs = draw(logits, allowed, self._warp, uniform(seeds, drawn))
        self._ids[rows].scatter_(1, drawn[:, None], ids)
        self._log_probs[rows].scatter_(1, drawn[:, None], log_probs)
        states.copy_(self._automaton.following[states, ids[:, 0]])
        drawn += 1

    def _close_gaps(self, places: Sequence[int]) -> None:
        remaining = len(self) - len(places)
        gone = set(places)
        targets = [place for place in places if place < remaining]
        sources = [place for place in range(remaining, len(self)) if place not in gone]
        order = list(range(remaining))
        lengths = self._columns[-1].tolist()
        for source, target in zip(sources, targets, strict=True):
            order[target] = source
            # What both begin with need not be copied: all prompts may begin with the same examples.
            start = shared(*(self._rows[place].keyed.request.prompt for place in (source, target)))
            self._slots.move(source, target, start, lengths[source])
        for place in range(remaining, len(self)):
            self._held[place] = self._rows[place].keyed.request.prompt
        self._rows = [self._rows[place] for place in order]
        self._columns = self._columns[:, order]
        self._ids = self._ids[order]
        self._log_probs = self._log_probs[order]
