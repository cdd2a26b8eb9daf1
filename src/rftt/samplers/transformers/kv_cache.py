"""Keys and values of running sequences, which start and end at different times.

transformers' own caches hold rows of one common length, so a sequence can neither join a running batch
nor leave it without a copy of everything. Here each sequence has a slot, starts at column 0 of it and
has a length of its own.

On a CPU the store is address space of the system's, in pages that take memory once they are written to
and are given back by name: room for long sequences costs nothing, and growing no second copy.
"""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from typing import Final

import torch
from attrs import frozen
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

_STEP: Final = 32
"""Fewest columns that are added."""


@frozen
class SlotSource:
    """What a slot is to hold.

    Attributes:
        slot: the slot whose first columns it takes, which may be itself; ``None`` if it takes none.
        held: number of those columns.
        needed: number of columns that it needs now.
    """

    slot: int | None
    held: int
    needed: int


class KVCache:
    """Keys and values by slot and column.

    ``store[slot, 2 * layer]`` holds a slot's keys and ``store[slot, 2 * layer + 1]`` its values, each
    ``[heads, columns, dimensions]``. Slots in use are kept together at the front, so that decoding reads
    a slice.

    Attributes:
        token_shape: shape of one token's keys and values, ``(sides, heads, dimensions)``.
        token_bytes: memory of one token's keys and values.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        query_heads = config.num_attention_heads
        heads: int = getattr(config, "num_key_value_heads", None) or query_heads
        dimensions: int = getattr(config, "head_dim", None) or config.hidden_size // query_heads
        self.token_shape = 2 * int(config.num_hidden_layers), heads, dimensions
        self.token_bytes = prod(self.token_shape) * model.dtype.itemsize
        self._on_cpu = model.device.type == "cpu"
        self._pages: mmap.mmap | None = None
        self._written: list[int] = []
        """For each slot, how many columns may take memory."""
        shape = 0, 2 * int(config.num_hidden_layers), heads, 0, dimensions
        self.store = torch.empty(shape, dtype=model.dtype, device=model.device)

    def memory_bytes(self, lengths: Sequence[int]) -> int:
        """Return the memory of slots that hold so many columns each.

        On a CPU those are whole pages for each head. Elsewhere all slots are as long as the longest, and
        twice: while the store grows, there are two.
        """
        if not self._on_cpu:
            return 2 * len(lengths) * max(lengths, default=0) * self.token_bytes
        sides, heads, dimensions = self.token_shape
        column = dimensions * self.store.itemsize
        pages = sum(length * column // mmap.PAGESIZE + 2 for length in lengths if length)
        return sides * heads * pages * mmap.PAGESIZE

    def arrange(self, sources: Sequence[SlotSource], limit: int, most_bytes: int) -> None:
        """Bring what each slot is to hold to it, and reserve what it needs. Slots that are not named are
        free from now on.

        Args:
            sources: for each slot, what it holds. One that takes from another, or from none, is free so
                far.
            limit: number of columns that may come to be needed.
            most_bytes: most memory to take, at least :meth:`memory_bytes` of what is needed.
        """
        columns = max((source.needed for source in sources), default=0)
        old_slots, _, _, old_columns, _ = self.store.shape
        if len(sources) > old_slots or columns > old_columns:
            self._grow(sources, columns, limit, most_bytes)
            return
        needed = [source.needed for source in sources] + [0] * (old_slots - len(sources))
        kept = needed.copy()
        for source in sources:
            if source.slot is not None:
                kept[source.slot] = max(kept[source.slot], source.held)
        self._trim(kept, most_bytes)
        for slot, source in enumerate(sources):
            if source.slot is not None and source.slot != slot:
                held = slice(source.held)
                self.store[slot, :, :, held] = self.store[source.slot, :, :, held]
        self._written = [*map(max, self._written, kept)]
        self._trim(needed, most_bytes)

    def tokens(self, slot: int, start: int, end: int) -> Float[Tensor, "tokens sides heads dimensions"]:
        """Return a view of some columns of a slot."""
        return self.store[slot, :, :, start:end].permute(2, 0, 1, 3)

    def _grow(self, sources: Sequence[SlotSource], columns: int, limit: int, most_bytes: int) -> None:
        """Move to a larger store. It has more than is needed now, since all is copied each time."""
        slots = len(sources)
        old_slots, _, _, old_columns, _ = self.store.shape
        if self._on_cpu:
            shape = (
                max(slots, 2 * old_slots) if slots > old_slots else old_slots,
                max(limit, 2 * old_columns) if columns > old_columns else old_columns,
            )
        else:
            shape = (
                max(slots, old_slots * 9 // 8) if slots > old_slots else old_slots,
                min(limit, max(columns + _STEP, old_columns * 9 // 8))
                if columns > old_columns
                else old_columns,
            )
            if 2 * prod(shape) * self.token_bytes > most_bytes:
                shape = slots, columns
        old, old_pages = self.store, self._pages
        self.store, self._pages = self._zeros(*shape, old)
        takers: defaultdict[int, list[int]] = defaultdict(list)
        for slot, source in enumerate(sources):
            if source.slot is not None:
                takers[source.slot].append(slot)
        # Memory that nobody takes from is given back first, then each slot's as soon as it is copied.
        for slot in sorted(range(old_slots), key=takers.__contains__):
            for taker in takers.get(slot, ()):
                held = slice(sources[taker].held)
                self.store[taker, :, :, held] = old[slot, :, :, held]
            if old_pages is not None:
                _release(old_pages, old, slot, 0, old_columns)
        self._written = [source.needed for source in sources] + [0] * (shape[0] - slots)

    def _trim(self, kept: Sequence[int], most_bytes: int) -> None:
        """Give back memory of columns that are not kept, if all together take too much."""
        if self._pages is None or self.memory_bytes(self._written) <= most_bytes:
            return
        for slot, (length, written) in enumerate(zip(kept, self._written, strict=True)):
            if written > length:
                _release(self._pages, self.store, slot, length, written)
        self._written = [*map(min, self._written, kept)]

    def _zeros(self, slots: int, columns: int, like: Tensor) -> tuple[Tensor, mmap.mmap | None]:
        """Return zeros, since attention multiplies what it masks by 0, and 0 * nan is nan; and on a CPU
        the pages that they are."""
        sides, heads, dimensions = self.token_shape
        shape = slots, sides, heads, columns, dimensions
        if not self._on_cpu or 0 in shape:
            return like.new_zeros(shape), None
        # Private: of shared pages, those that are only read take memory, too.
        pages = mmap.mmap(-1, prod(shape) * like.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANON)
        with suppress(OSError, AttributeError):  # a system without huge pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
        return torch.frombuffer(pages, dtype=like.dtype).view(shape), pages


def _release(pages: mmap.mmap, store: Tensor, slot: int, start: int, end: int) -> None:
    """Give the system the pages of some columns of a slot; those columns are zeros then."""
    _, sides, heads, columns, dimensions = store.shape
    column = dimensions * store.itemsize
    stretches = sides * heads
    whole = start == 0
    first = slot * stretches
    for stretch in (first,) if whole else range(first, first + stretches):
        low = -(-(stretch * columns + start) * column // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (first + stretches) * columns if whole else stretch * columns + end
        size = last * column // mmap.PAGESIZE * mmap.PAGESIZE - low
        if size > 0:
            pages.madvise(mmap.MADV_DONTNEED, low, size)
