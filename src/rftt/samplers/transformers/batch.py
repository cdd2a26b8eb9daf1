"""The running batch: groups of requests, and the new ids that one forward pass computes for them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import torch
from attrs import define, field, frozen
from jaxtyping import Float, Int64
from torch import Tensor

from rftt.samplers.sampler import SampleRequest
from rftt.samplers.transformers.memory import MemoryPlan
from rftt.tokens.automaton import TokenAutomaton

HEADROOM: Final = 32
"""Ids that each sequence can still draw when the last one begins; fewer make sequences begin for which
there is soon no room."""


@define(eq=False)
class ScoreRequest:
    """A request for the log-probabilities of the special ids that may follow a prompt.

    Attributes:
        prompt: ids, at least one.
        state: the state of ``automaton`` after the prompt.
        log_probs: for each special id that the state allows; none before the request is done.
    """

    prompt: tuple[int, ...]
    state: int
    automaton: TokenAutomaton
    log_probs: dict[int, float] | None = None


Entry = tuple[int, int, SampleRequest | ScoreRequest]
"""Key, order in which it was added, request. Lower entries are scheduled first."""


@define(eq=False)
class SequenceGroup:
    """Requests with the same prompt that have drawn the same ids so far, and so share a slot.

    Attributes:
        prompt: ids that were given.
        state: the automaton's state after ``ids``.
        entries: the requests.
        num_cached: number of the prompt's ids whose keys and values are in the slot.
        prefix_hash: hash of those ids.
        ids: ids drawn so far.
        log_probs: the log-probability of each.
    """

    prompt: tuple[int, ...]
    state: int
    entries: list[Entry]
    num_cached: int
    prefix_hash: int
    ids: list[int] = field(factory=list)
    log_probs: list[float] = field(factory=list)

    @property
    def last(self) -> int:
        """Return the last id, which the next pass computes."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    @property
    def before(self) -> int:
        """Return the number of ids before the last."""
        return len(self.prompt) + len(self.ids) - 1

    @property
    def held(self) -> int:
        """Return the number of ids whose keys and values its slot holds."""
        return self.num_cached + max(0, len(self.ids) - 1)

    @property
    def limit(self) -> int:
        """Return the most columns that it may come to need."""
        sampled = [r.max_tokens for *_, r in self.entries if isinstance(r, SampleRequest)]
        return len(self.prompt) + max(sampled, default=0)

    @property
    def planned(self) -> int:
        """Return the columns for which there must be room before others begin."""
        return min(self.limit, self.before + 1 + HEADROOM)

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of its sample requests."""
        return [request.seed for *_, request in self.entries if isinstance(request, SampleRequest)]

    @property
    def uncached(self) -> int:
        """Return the number of the prompt's ids, but for the last, that are still to be computed."""
        return max(0, len(self.prompt) - 1 - self.num_cached)


@frozen(eq=False)
class BatchSegment:
    """New ids of some slots that attend in one call.

    Attributes:
        device: where the KV cache is.
        slots: the slots; where ``is_decode``, the first ones in order.
        starts: for each slot, the number of ids before its new ones.
        counts: for each slot, the number of its new ids; 1 where ``is_decode``.
        ids: the new ids, those of one slot after those of another.
        is_decode: whether these are the last ids of all slots.
    """

    device: torch.device
    slots: Int64[np.ndarray, " rows"]
    starts: Int64[np.ndarray, " rows"]
    counts: Int64[np.ndarray, " rows"]
    ids: Int64[np.ndarray, " ids"]
    is_decode: bool = False
    _masks: dict[int | None, Tensor] = field(factory=dict, init=False)

    @cached_property
    def packed(self) -> Int64[np.ndarray, "3 ids"]:
        """Return each id, its slot and its column."""
        rows, offsets = self._rows_and_offsets
        return np.stack([self.ids, self.slots[rows], self.starts[rows] + offsets])

    def queries(self, packed: Float[Tensor, "ids heads dimensions"]) -> Tensor:
        """Return the queries of its ids as ``[rows, heads, new, dimensions]``, padded with zeros."""
        if self.is_decode:
            return packed[:, :, None]
        rows, offsets = self._grid
        shape = len(self.slots), packed.shape[1], int(self.counts.max()), packed.shape[2]
        queries = packed.new_zeros(shape)
        queries[rows, :, offsets] = packed
        return queries

    def keys(self, store: Tensor, side: int) -> Float[Tensor, "rows heads width dimensions"]:
        """Return one side of a layer of its slots."""
        slots = slice(len(self.slots)) if self.is_decode else self._slots_and_starts[0]
        return store[slots, side, :, : self._width]

    def mask(self, window: int | None, dtype: torch.dtype) -> Float[Tensor, "rows 1 new width"]:
        """Return what is added to attention: nothing at an id's own column and those before it, the last
        ``window`` of them if there is one, and so much elsewhere that it is not seen."""
        if window not in self._masks:
            new = torch.arange(int(self.counts.max()), device=self.device)
            own = (self._slots_and_starts[1][:, None] + new)[:, :, None]
            columns = torch.arange(self._width, device=self.device)
            hidden = columns > own
            if window is not None:
                hidden |= columns <= own - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
            self._masks[window] = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
        return self._masks[window]

    def pack(self, mixed: Float[Tensor, "rows new heads dimensions"]) -> Tensor:
        """Return the attention of its ids as ``[ids, heads, dimensions]``."""
        return mixed[:, 0] if self.is_decode else mixed[self._grid]

    @cached_property
    def _rows_and_offsets(self) -> tuple[Int64[np.ndarray, " ids"], Int64[np.ndarray, " ids"]]:
        """Return, for each id, which of the slots is its own, and its place among the slot's new ids."""
        rows = np.repeat(np.arange(len(self.slots)), self.counts)
        before = np.cumsum(self.counts) - self.counts
        return rows, np.arange(len(rows)) - before[rows]

    @cached_property
    def _width(self) -> int:
        return int((self.starts + self.counts).max())

    @cached_property
    def _grid(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.stack(self._rows_and_offsets)).to(self.device))

    @cached_property
    def _slots_and_starts(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.stack([self.slots, self.starts])).to(self.device))


def decode_segment(groups: Sequence[SequenceGroup], device: torch.device) -> BatchSegment:
    """Return the last ids of all slots; ``groups`` are in the order of their slots."""
    starts = np.array([group.before for group in groups], np.int64)
    ids = np.array([group.last for group in groups], np.int64)
    slots = np.arange(len(groups))
    return BatchSegment(device, slots, starts, np.ones_like(ids), ids, is_decode=True)


@frozen
class _Piece:
    """Ids of a prompt from ``start`` to ``end`` that one pass computes."""

    slot: int
    group: SequenceGroup
    start: int
    end: int

    @property
    def new(self) -> int:
        return self.end - self.start


def prefill_passes(
    groups: Sequence[SequenceGroup], device: torch.device, plan: MemoryPlan
) -> list[list[BatchSegment]]:
    """Return the segments of what is not cached of prompts, but for their last ids, in as many passes as
    their share of memory makes of it. There is one at least, which may have no segment.

    Slots with about as many ids share a segment: attention is computed for as many ids of each as the
    longest has.
    """
    passes: list[list[list[_Piece]]] = [[]]
    left = plan.prefill_bytes
    shape = 0, 0, 0  # of the last segment: sequences, new ids of the longest, columns
    uncached = [(slot, group) for slot, group in enumerate(groups) if group.uncached]
    for slot, group in sorted(uncached, key=lambda pair: pair[1].uncached):
        start, end = group.num_cached, len(group.prompt) - 1
        while start < end:
            parts = passes[-1]
            piece = _Piece(slot, group, start, min(end, start + plan.prefill_ids(end)))
            if not parts or piece.new > 2 * parts[-1][0].new:
                parts.append([])
                shape = 0, 0, 0
            rows, new, width = shape
            grown = rows + 1, max(new, piece.new), max(width, piece.end)
            more = plan.sizes.prefill(*grown) - plan.sizes.prefill(*shape)
            if more > left and rows + len(parts) > 1:
                passes.append([])
                left = plan.prefill_bytes
                continue
            parts[-1].append(piece)
            left -= more
            shape, start = grown, piece.end
    return [[_prefill_segment(part, device) for part in parts if part] for parts in passes]


def _prefill_segment(part: Sequence[_Piece], device: torch.device) -> BatchSegment:
    return BatchSegment(
        device,
        slots=np.array([piece.slot for piece in part]),
        starts=np.array([piece.start for piece in part]),
        counts=np.array([piece.new for piece in part]),
        ids=np.array([i for piece in part for i in piece.group.prompt[piece.start : piece.end]]),
    )
