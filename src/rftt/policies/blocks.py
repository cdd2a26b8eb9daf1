"""What one forward pass reads: new ids of many rows, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from attrs import field, frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rftt.policies.kv_slots import KVSlots


@frozen(eq=False)
class Block:
    """New ids of rows at even distances, one row's after another's. What says where they are is numpy's,
    so that a pass puts that of all blocks together before it goes to the model's device.

    Attributes:
        slots: where the rows are.
        place: which they are.
        starts: how long each row is so far.
        ids: all new ids.
        rows: the row of each, counted in ``place``.
        columns: where each stands in its row.
        is_last: whether they are the last of their rows, one of each, so that logits are wanted.
    """

    slots: KVSlots
    place: range
    starts: Int64[np.ndarray, " rows"]
    ids: Int64[np.ndarray, " ids"]
    rows: Int64[np.ndarray, " ids"]
    columns: Int64[np.ndarray, " ids"]
    is_last: bool
    _masks: dict[int | None, Tensor] = field(factory=dict, init=False)

    @cached_property
    def size(self) -> int:
        """How many new ids there are."""
        return len(self.ids)

    @cached_property
    def height(self) -> int:
        """How many rows."""
        return len(self.place)

    @cached_property
    def new(self) -> int:
        """Most new ids of a row."""
        return 1 + int((self.columns - self.starts[self.rows]).max())

    @cached_property
    def width(self) -> int:
        """How long the longest row will be."""
        return 1 + int(self.columns.max())

    @cached_property
    def is_even(self) -> bool:
        """Whether all rows have as many new ids."""
        return self.size == self.height * self.new

    @cached_property
    def grid(self) -> tuple[Int64[Tensor, " ids"], Int64[Tensor, " ids"]]:
        """Of each id its row, and its place among the new ids of its row."""
        offsets = self.columns - self.starts[self.rows]
        return self._tensor(self.rows), self._tensor(offsets)

    @cached_property
    def kept(self) -> Float[Tensor, "rows sides heads width dimensions"]:
        """The rows' keys and values."""
        rows = slice(self.place.start, self.place.stop, self.place.step)
        return self.slots.store[rows, :, :, : self.width]

    def mask(self, window: int | None) -> Float[Tensor, "rows 1 new width"]:
        """What is added to attention: nothing at a new id's own column and those before it, the last
        ``window`` of them if there is one, and so much elsewhere that it is not seen."""
        if window not in self._masks:
            device, dtype = self.slots.store.device, self.slots.store.dtype
            offsets = torch.arange(self.new, device=device)
            own = (self._tensor(self.starts)[:, None] + offsets)[:, :, None]
            columns = torch.arange(self.width, device=device)
            hidden: Bool[Tensor, "rows new width"] = columns > own
            if window is not None:
                hidden |= columns <= own - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self._masks[window] = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
        return self._masks[window]

    def _tensor(self, numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(self.slots.store.device)


def last_of_each(
    slots: KVSlots, starts: Int64[np.ndarray, " rows"], ids: Int64[np.ndarray, " rows"]
) -> Block:
    """The last id of each row, from the front on."""
    rows = len(ids)
    return Block(slots, range(rows), starts, ids, np.arange(rows), columns=starts, is_last=True)


def before_the_last(
    slots: KVSlots, place: range, starts: Sequence[int], ids: Sequence[Sequence[int]]
) -> Block:
    """Ids that others will follow, for rows at even distances."""
    table = [
        (token, row, column)
        for row, (start, new) in enumerate(zip(starts, ids, strict=True))
        for column, token in enumerate(new, start)
    ]
    tokens, rows, columns = np.array(table, np.int64).T
    return Block(slots, place, np.array(starts, np.int64), tokens, rows, columns, is_last=False)
