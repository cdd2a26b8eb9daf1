"""What one forward pass reads: new ids of many rows, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from attrs import field, frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rftt.policies.kv_slots import KVSlots


@frozen(eq=False)
class Block:
    """New ids of neighbouring rows, one row's after another's.

    Attributes:
        slots: where the rows are.
        first: the first of them.
        starts: how long each row is so far.
        ids: all new ids.
        rows: the row of each, counted from the first.
        columns: where each stands in its row.
        ends: which of them are the last of their rows.
        new: most new ids of a row.
        width: how long the longest row will be.
    """

    slots: KVSlots
    first: int
    starts: Int64[Tensor, " rows"]
    ids: Int64[Tensor, " ids"]
    rows: Int64[Tensor, " ids"]
    columns: Int64[Tensor, " ids"]
    ends: Int64[Tensor, " rows"]
    new: int
    width: int
    _masks: dict[int | None, Tensor] = field(factory=dict, init=False)

    @cached_property
    def size(self) -> int:
        """How many new ids there are."""
        return len(self.ids)

    @cached_property
    def height(self) -> int:
        """How many rows."""
        return len(self.starts)

    @property
    def is_even(self) -> bool:
        """Whether all rows have as many new ids."""
        return self.size == self.height * self.new

    @cached_property
    def offsets(self) -> Int64[Tensor, " ids"]:
        """The place of each among the new ids of its row."""
        return self.columns - self.starts[self.rows]

    @cached_property
    def kept(self) -> Float[Tensor, "rows sides heads width dimensions"]:
        """The rows' keys and values."""
        return self.slots.store[self.first : self.first + self.height, :, :, : self.width]

    def mask(self, window: int | None) -> Float[Tensor, "rows 1 new width"]:
        """What is added to attention: nothing at a new id's own column and those before it, the last
        ``window`` of them if there is one, and so much elsewhere that it is not seen."""
        if window not in self._masks:
            device, dtype = self.starts.device, self.slots.store.dtype
            own = (self.starts[:, None] + torch.arange(self.new, device=device))[:, :, None]
            columns = torch.arange(self.width, device=device)
            hidden: Bool[Tensor, "rows new width"] = columns > own
            if window is not None:
                hidden |= columns <= own - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self._masks[window] = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
        return self._masks[window]


def one_each(
    slots: KVSlots, starts: Int64[np.ndarray, " rows"], ids: Int64[np.ndarray, " rows"]
) -> Block:
    """One new id for each row from the front on."""
    device = slots.store.device
    columns, tokens = torch.from_numpy(starts).to(device), torch.from_numpy(ids).to(device)
    rows = torch.arange(len(ids), device=device)
    return Block(
        slots, 0, columns, tokens, rows,
        columns=columns, ends=rows, new=1, width=int(starts.max()) + 1,
    )  # fmt: skip


def several_each(
    slots: KVSlots, first: int, starts: Sequence[int], ids: Sequence[Sequence[int]]
) -> Block:
    """New ids for rows from ``first`` on."""
    table = [
        (token, row, column)
        for row, (start, new) in enumerate(zip(starts, ids, strict=True))
        for column, token in enumerate(new, start)
    ]
    ends = [total - 1 for total in accumulate(map(len, ids))]
    device = slots.store.device
    tokens, rows, columns = torch.tensor(table, device=device).T.contiguous()
    return Block(
        slots, first, torch.tensor(starts, device=device), tokens, rows,
        columns=columns, ends=torch.tensor(ends, device=device), new=max(map(len, ids)),
        width=1 + max(column for _, _, column in table),
    )  # fmt: skip
