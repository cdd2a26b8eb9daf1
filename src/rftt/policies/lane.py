"""Rows that are decoded in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor

from rftt.policies.distribution import Warp, inverse_cumulative, warped
from rftt.policies.kv_slots import KVSlots
from rftt.policies.noise import uniform
from rftt.policies.prefill import read_prompts
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
    """At most ``capacity`` rows; row ``i`` of each tensor is row ``i`` of the slots."""

    def __init__(
        self,
        slots: KVSlots,
        pool: PrefixPool,
        automaton: TokenAutomaton,
        warp: Warp,
        capacity: int,
    ) -> None:
        self.capacity = capacity
        self._slots = slots
        self._pool = pool
        self._automaton = automaton
        self._warp = warp
        self._rows: list[_Row] = []
        # Per row: the automaton's state, seed, most ids, ids drawn, length with the prompt.
        self._columns = torch.zeros(5, capacity, dtype=torch.int64, device=slots.model.device)
        self._states, self._seeds, self._limits, self._drawn, self._lengths = self._columns
        self._ids = torch.zeros(capacity, 0, dtype=torch.int64, device=slots.model.device)
        self._log_probs = torch.zeros(capacity, 0, device=slots.model.device)

    def __len__(self) -> int:
        return len(self._rows)

    def admit(self, requests: Sequence[Keyed]) -> None:
        """Read the prompts and draw the first id of each."""
        self._widen(max(keyed.request.max_tokens for keyed in requests))
        prompts = [keyed.request.prompt for keyed in requests]
        for read in read_prompts(prompts, self._slots, self._pool, len(self)):
            chosen = [requests[number] for number in read.numbers]
            rows = slice(read.first_row, read.first_row + len(chosen))
            self._rows += map(_Row, chosen, read.keys)
            asked = [keyed.request for keyed in chosen]
            self._columns[:, rows] = torch.tensor(
                [[r.state, r.seed, r.max_tokens, 0, len(r.prompt)] for r in asked],
                device=self._slots.model.device,
            ).T
            self._draw(rows, read.logits)

    def decode(self) -> None:
        """Draw one more id for each row."""
        rows = slice(0, len(self))
        lengths = self._lengths[rows]
        self._slots.make_room(len(self), int(lengths.max()) + 1)
        last = self._ids[rows].gather(1, self._drawn[rows, None] - 1)
        logits = self._slots.forward(0, lengths, last, torch.ones_like(lengths))
        lengths += 1
        self._draw(rows, logits)

    def retire(self) -> list[tuple[int, Sample]]:
        """Take finished rows out, and fill their places with the last ones."""
        alive = len(self)
        over = (self._states[:alive] == END) | (self._drawn[:alive] >= self._limits[:alive])
        finished = over.nonzero()[:, 0]
        if not len(finished):
            return []
        places = finished.tolist()
        done = []
        for place, ids, log_probs, count in zip(
            places,
            self._ids[finished].tolist(),
            self._log_probs[finished].tolist(),
            self._drawn[finished].tolist(),
            strict=True,
        ):
            row = self._rows[place]
            done.append((row.keyed.key, Sample(tuple(ids[:count]), tuple(log_probs[:count]))))
            # The last id was drawn but never read.
            start = len(row.keyed.request.prompt)
            read = self._slots.read(place, start, start + count - 1)
            self._pool.insert(row.prefix, ids[: count - 1], read)
        self._close_gaps(places)
        return done

    def absorb(self, other: Lane) -> None:
        """Take over all rows of another lane, for which there must be room."""
        if not len(other):
            return
        here, there = slice(len(self), len(self) + len(other)), slice(0, len(other))
        self._widen(other._ids.shape[1])
        width = other._ids.shape[1]
        self._ids[here, :width] = other._ids[there]
        self._log_probs[here, :width] = other._log_probs[there]
        self._columns[:, here] = other._columns[:, there]
        length = int(other._lengths[there].max())
        self._slots.make_room(here.stop, length)
        self._slots.store[here, :, :, :length] = other._slots.store[there, :, :, :length]
        self._rows += other._rows
        other._rows.clear()

    def _widen(self, tokens: int) -> None:
        if (more := tokens - self._ids.shape[1]) > 0:
            self._ids = torch.nn.functional.pad(self._ids, (0, more))
            self._log_probs = torch.nn.functional.pad(self._log_probs, (0, more))

    def _draw(self, rows: slice, logits: Float[Tensor, "rows size"]) -> None:
        """Draw one id for each row and take note of it."""
        states, drawn = self._states[rows], self._drawn[rows]
        log_probs = warped(logits.float(), self._automaton.allowed[states], self._warp)
        ids = inverse_cumulative(log_probs, uniform(self._seeds[rows], drawn))
        self._ids[rows].scatter_(1, drawn[:, None], ids[:, None])
        self._log_probs[rows].scatter_(1, drawn[:, None], log_probs.gather(1, ids[:, None]))
        states.copy_(self._automaton.following[states, ids])
        drawn += 1

    def _close_gaps(self, places: list[int]) -> None:
        remaining = len(self) - len(places)
        gone = set(places)
        targets = [place for place in places if place < remaining]
        sources = [place for place in range(remaining, len(self)) if place not in gone]
        if targets:
            from_, to = (torch.tensor(p, device=self._slots.model.device) for p in (sources, targets))
            width = int(self._lengths[from_].max())
            self._slots.store[to, :, :, :width] = self._slots.store[from_, :, :, :width]
            for tensor in (self._ids, self._log_probs):
                tensor[to] = tensor[from_]
            self._columns[:, to] = self._columns[:, from_]
            for source, target in zip(sources, targets, strict=True):
                self._rows[target] = self._rows[source]
        del self._rows[remaining:]
