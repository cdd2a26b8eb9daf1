"""Keys and values of running sequences, which start and end at different times.

transformers' own caches hold rows of one common length, so a sequence can neither join a running batch
nor leave it without a copy of everything. Here each sequence has a slot, starts at column 0 of it and
has a length of its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

_STEP: Final = 32
"""Fewest columns that are added."""


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
        self.store = self._zeros(0, 0, torch.empty(0, dtype=model.dtype, device=model.device))

    def reserve(self, lengths: Sequence[int], slots: int, columns: int, limit: int) -> None:
        """Grow to at least so many slots and columns.

        Args:
            lengths: for each of the first slots, how many columns to keep.
            slots: number of slots needed now.
            columns: number of columns needed now.
            limit: number of columns that may come to be needed.
        """
        old_slots, _, _, old_columns, _ = self.store.shape
        if slots <= old_slots and columns <= old_columns:
            return
        # More than is needed now, since all is copied each time. On a CPU the rest takes no memory.
        on_cpu = self.store.device.type == "cpu"
        if slots > old_slots:
            slots = max(slots, 2 * old_slots if on_cpu else old_slots * 9 // 8)
        if columns > old_columns and on_cpu:
            columns = max(limit, 2 * old_columns)
        elif columns > old_columns:
            columns = min(limit, max(columns + _STEP, old_columns * 9 // 8))
        grown = self._zeros(max(slots, old_slots), max(columns, old_columns), self.store)
        for slot, length in enumerate(lengths):
            grown[slot, :, :, :length] = self.store[slot, :, :, :length]
        self.store = grown

    def tokens(self, slot: int, start: int, end: int) -> Float[Tensor, "tokens sides heads dimensions"]:
        """Return a view of some columns of a slot."""
        return self.store[slot, :, :, start:end].permute(2, 0, 1, 3)

    def copy(self, source: int, target: int, end: int) -> None:
        """Copy the first columns of one slot to another."""
        self.store[target, :, :, :end] = self.store[source, :, :, :end]

    def _zeros(self, slots: int, columns: int, like: Tensor) -> Tensor:
        """Return zeros, since attention multiplies what it masks by 0, and 0 * nan is nan.

        On a CPU they are pages of the system's that take memory once they are written to: few sequences
        are as long as the longest."""
        sides, heads, dimensions = self.token_shape
        shape = slots, sides, heads, columns, dimensions
        if like.device.type != "cpu" or 0 in shape:
            return like.new_zeros(shape)
        pages = mmap.mmap(-1, prod(shape) * like.itemsize)
        return torch.frombuffer(pages, dtype=like.dtype).view(shape)
