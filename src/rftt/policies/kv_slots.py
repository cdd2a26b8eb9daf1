"""Keys and values of a running batch whose rows begin and end at different times.

transformers' own caches hold rows of one common length, so a row can neither join a running batch nor
leave it without a copy of the whole. Here each row starts at column 0 and has a length of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Final

import numpy
import torch
from attrs import define, field
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

_ROOM: Final = 64
"""Fewest columns that are added."""


class KVSlots:
    """Room for rows of tokens that a model has read.

    ``store[row, 2 * layer]`` holds a row's keys and ``store[row, 2 * layer + 1]`` its values, each
    ``[heads, tokens, dimensions]``. Rows in use are kept together at the front, so that a forward
    pass reads a slice. The last column is a bin for what is computed for padding.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        self.model = model
        self._window: int | None = getattr(config, "sliding_window", None)
        self._has_layer_types: bool = bool(getattr(config, "layer_types", None))
        self.heads: int = getattr(config, "num_key_value_heads", None) or heads
        self.layers: int = config.num_hidden_layers
        self.dimensions: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.store = torch.zeros(0, *self.token_shape[:2], 0, self.token_shape[2])
        # Made once: it takes as long as several small operations on tensors.
        self._pass = _Pass()
        self._cache = Cache(layers=[_SlotLayer(self._pass, layer) for layer in range(self.layers)])

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """One token's keys and values: ``(sides, heads, dimensions)``."""
        return 2 * self.layers, self.heads, self.dimensions

    def make_room(self, rows: int, columns: int) -> None:
        """Hold at least so many rows and, beside the bin, so many columns."""
        held_rows, _, _, held_columns, _ = self.store.shape
        if rows <= held_rows and columns < held_columns:
            return
        # More than is asked for now, since each time all that is held is copied.
        rows = held_rows if rows <= held_rows else max(rows, 2 * held_rows)
        columns = held_columns if columns < held_columns else columns + max(_ROOM, columns // 4)
        shape = (rows, 2 * self.layers, self.heads, columns, self.dimensions)
        grown = _zeros(shape, self.model.dtype, self.model.device)
        grown[:held_rows, :, :, :held_columns] = self.store
        self.store = grown

    def tokens(self, row: int, start: int, end: int) -> Float[Tensor, "tokens sides heads dimensions"]:
        """Some columns of a row; what is written there is written to the row."""
        return self.store[row, :, :, start:end].permute(2, 0, 1, 3)

    def move(self, source: int, target: int, start: int, end: int) -> None:
        """Copy some columns of one row over those of another."""
        self.store[target, :, :, start:end] = self.store[source, :, :, start:end]

    def forward(
        self,
        first_row: int,
        starts: Int64[Tensor, " rows"],
        ids: Int64[Tensor, "rows new"],
        counts: Int64[Tensor, " rows"],
    ) -> Float[Tensor, "rows size"]:
        """Read new ids in the rows from ``first_row``; logits of what comes after the last.

        ``starts`` are the rows' lengths so far; ``counts`` says how many ids of each row are real:
        what stands to the left of those is padding.
        """
        rows, new = ids.shape
        device = ids.device
        offsets = torch.arange(new, device=device) - (new - counts[:, None])
        columns = torch.where(offsets >= 0, starts[:, None] + offsets, self.store.shape[3] - 1)
        positions = (starts[:, None] + offsets).clamp(min=0)
        width = int(positions[:, -1].max()) + 1
        places = torch.arange(rows, device=device)[:, None]
        self._pass.rows = self.store[first_row : first_row + rows]
        self._pass.places, self._pass.columns, self._pass.width = places, columns, width
        output = self.model(
            input_ids=ids,
            attention_mask=self._masks(positions, width),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _masks(self, positions: Int64[Tensor, "rows new"], width: int) -> Tensor | dict[str, Tensor]:
        """Which columns each new id sees, as transformers' models take it: those up to its own; where
        there is a window, the last so many of them, in all layers or in those of that type."""
        columns, own = torch.arange(width, device=positions.device), positions[:, :, None]
        seen = columns <= own
        if self._window is None:
            return self._additive(seen)
        near = self._additive(seen & (columns > own - self._window))
        if not self._has_layer_types:
            return near
        return {"full_attention": self._additive(seen), "sliding_attention": near}

    def _additive(self, seen: Bool[Tensor, "rows new width"]) -> Float[Tensor, "rows 1 new width"]:
        mask = torch.zeros(seen.shape, dtype=self.model.dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(self.model.dtype).min)[:, None]


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Not `empty`: a masked value is still multiplied by 0, and 0 * nan is nan. numpy's zeros take no
    time and no memory until they are written to; torch writes to its own at once."""
    if device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    return (
        torch.from_numpy(numpy.zeros(prod(shape) * dtype.itemsize, numpy.uint8)).view(dtype).view(*shape)
    )


@define
class _Pass:
    """Where the forward pass under way writes keys and values of new ids, and what it reads. Layers
    hold this, and not the slots: memory in a circle is given back late."""

    rows: Float[Tensor, "rows sides heads columns dimensions"] = field(init=False)
    places: Int64[Tensor, "rows 1"] = field(init=False)
    columns: Int64[Tensor, "rows new"] = field(init=False)
    width: int = field(init=False)


class _SlotLayer(DynamicLayer):
    """One layer's keys and values."""

    def __init__(self, under_way: _Pass, layer: int) -> None:
        super().__init__()
        self.is_initialized = True
        self._pass, self._layer = under_way, layer

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        now = self._pass
        keys, values = now.rows[:, 2 * self._layer], now.rows[:, 2 * self._layer + 1]
        keys[now.places, :, now.columns] = key_states.transpose(1, 2)
        values[now.places, :, now.columns] = value_states.transpose(1, 2)
        return keys[:, :, : now.width], values[:, :, : now.width]

    def get_seq_length(self) -> int:
        now = self._pass
        return now.width - now.columns.shape[1]
