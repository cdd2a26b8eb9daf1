"""One forward pass over new ids of many rows.

All new ids stand one behind the other, as one sequence, so that nothing is computed for padding and rows
that read a prompt share the pass with rows that read one id. Only attention tells rows apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from attrs import define, field, frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rftt.policies.attention import Attention, attention_of
from rftt.policies.kv_slots import KVSlots

_PACKED = "rftt_packed"


@frozen(eq=False)
class Block:
    """New ids of neighbouring rows, one row's after another's.

    Attributes:
        slots: where the rows are.
        first: the first of them.
        starts: how long each row is so far.
        ids: all new ids.
        rows: the row of each, counted from the first.
        offsets: the place of each among the new ids of its row.
        new: most new ids of a row.
        width: how long the longest row will be.
    """

    slots: KVSlots
    first: int
    starts: Int64[Tensor, " rows"]
    ids: Int64[Tensor, " ids"]
    rows: Int64[Tensor, " ids"]
    offsets: Int64[Tensor, " ids"]
    new: int
    width: int
    _masks: dict[int | None, Tensor] = field(factory=dict, init=False)

    @cached_property
    def columns(self) -> Int64[Tensor, " ids"]:
        """Where each new id stands in its row."""
        return self.starts[self.rows] + self.offsets

    @cached_property
    def store(self) -> Float[Tensor, "rows sides heads columns dimensions"]:
        """The rows' keys and values."""
        return self.slots.store[self.first : self.first + len(self.starts)]

    @property
    def is_even(self) -> bool:
        """Whether all rows have as many new ids."""
        return len(self.ids) == len(self.starts) * self.new

    @property
    def ends(self) -> Int64[Tensor, " rows"]:
        """Which of the new ids are the last of their rows."""
        return torch.bincount(self.rows, minlength=len(self.starts)).cumsum(0) - 1

    def mask(self, window: int | None) -> Float[Tensor, "rows 1 new width"]:
        """What is added to attention: nothing at a new id's own column and those before it, the last
        ``window`` of them if there is one, and so much elsewhere that it is not seen."""
        if window not in self._masks:
            device, dtype = self.starts.device, self.slots.model.dtype
            own = (self.starts[:, None] + torch.arange(self.new, device=device))[:, :, None]
            columns = torch.arange(self.width, device=device)
            hidden: Bool[Tensor, "rows new width"] = columns > own
            if window is not None:
                hidden |= columns <= own - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=device)
            self._masks[window] = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
        return self._masks[window]


def one_each(slots: KVSlots, starts: Int64[Tensor, " rows"], ids: Int64[Tensor, " rows"]) -> Block:
    """One new id for each row from the front on."""
    rows = torch.arange(len(ids), device=ids.device)
    return Block(slots, 0, starts, ids, rows, torch.zeros_like(rows), 1, int(starts.max()) + 1)


def several_each(
    slots: KVSlots, first: int, starts: Sequence[int], ids: Sequence[Sequence[int]]
) -> Block:
    """New ids for rows from ``first`` on."""
    table = [(token, row, offset) for row, new in enumerate(ids) for offset, token in enumerate(new)]
    device = slots.model.device
    tokens, rows, offsets = torch.tensor(table, device=device).T.contiguous()
    width = max(start + len(new) for start, new in zip(starts, ids, strict=True))
    return Block(
        slots, first, torch.tensor(starts, device=device), tokens, rows, offsets,
        max(map(len, ids)), width,
    )  # fmt: skip


class PackedModel:
    """A model that reads blocks.

    Raises ``ValueError`` if the model's family computes attention in a way of its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if not getattr(model, "_supports_attention_backend", False):
            raise ValueError(
                f"{type(model).__name__} does not take attention from transformers' AttentionInterface"
            )
        self.model = model
        # Made once: it takes as long as several small operations on tensors.
        self._pass = _Pass()
        layers = range(model.config.get_text_config().num_hidden_layers)
        self._cache = Cache(layers=[_Layer(self._pass, layer) for layer in layers])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, there is no dropout; after, the model is as it was."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            yield
        finally:
            if training:
                self.model.train()

    def read(self, blocks: Sequence[Block]) -> Float[Tensor, "rows size"]:
        """Read new ids, and keep their keys and values in their rows; for each row, one block's after
        another's, the logits of what comes next."""
        before, ends = 0, []
        for block in blocks:
            ends.append(block.ends + before)
            before += len(block.ids)
        config = self.model.config.get_text_config()
        attention = config._attn_implementation
        self._pass.blocks, self._pass.attention = blocks, attention_of(self.model, attention)
        config._attn_implementation = _PACKED
        try:
            output = self.model(
                input_ids=torch.cat([block.ids for block in blocks])[None],
                position_ids=torch.cat([block.columns for block in blocks])[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=torch.cat(ends),
            )
        finally:
            config._attn_implementation = attention
            self._pass.blocks = ()
        logits: Tensor = output.logits[0]
        return logits


@define
class _Pass:
    """What is read by the forward pass under way. Layers hold this, and not the model: memory in a
    circle is given back late."""

    blocks: Sequence[Block] = ()
    attention: Attention = sdpa_attention_forward


class _Layer(DynamicLayer):
    """One layer's keys and values in the rows of the blocks that are read."""

    def __init__(self, under_way: _Pass, number: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.under_way = under_way
        self._sides = slice(2 * number, 2 * number + 2)

    def of(self, block: Block) -> tuple[Tensor, Tensor]:
        """A block's keys and values."""
        keys, values = block.store[:, self._sides].unbind(1)
        return keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        blocks = self.under_way.blocks
        sizes = [len(block.ids) for block in blocks]
        new = zip(key_states[0].split(sizes, 1), value_states[0].split(sizes, 1), strict=True)
        for block, states in zip(blocks, new, strict=True):
            for side, state in zip(self.of(block), states, strict=True):
                side[block.rows, :, block.columns] = state.transpose(0, 1)
        return self, self

    def get_seq_length(self) -> int:
        return 0


def packed_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "1 heads ids dimensions"],
    key: _Layer,
    value: _Layer,
    attention_mask: None,
    *,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "1 ids heads dimensions"], None]:
    """Attention of each block's ids to their own rows, in the form of transformers'
    ``AttentionInterface``."""
    mixed = []
    blocks, attention = key.under_way.blocks, key.under_way.attention
    queries = query[0].split([len(block.ids) for block in blocks], 1)
    for block, part in zip(blocks, queries, strict=True):
        rows = len(block.starts)
        if block.is_even:
            grid = part.unflatten(1, (rows, block.new)).transpose(0, 1)
        else:
            grid = part.new_zeros(rows, len(part), block.new, part.shape[2])
            grid[block.rows, :, block.offsets] = part.transpose(0, 1)
        keys, values = (side[:, :, : block.width] for side in key.of(block))
        out, _ = attention(module, grid, keys, values, block.mask(sliding_window), **kwargs)
        mixed.append(out.flatten(0, 1) if block.is_even else out[block.rows, block.offsets])
    return torch.cat(mixed)[None], None


AttentionInterface.register(_PACKED, packed_attention)
