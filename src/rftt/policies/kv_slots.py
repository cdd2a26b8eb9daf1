"""Keys and values of a running batch whose rows begin and end at different times.

transformers' own caches hold rows of one common length, so a row can neither join a running batch nor
leave it without a copy of the whole. Here each row starts at column 0 and has a length of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from rftt.policies.prefix_pool import common

_ROOM: Final = 64
"""Fewest columns that are added."""


class KVSlots:
    """Room for rows of tokens that a model has read.

    ``store[row, 2 * layer]`` holds a row's keys and ``store[row, 2 * layer + 1]`` its values, each
    ``[heads, tokens, dimensions]``. Rows in use are kept together at the front, so that a forward
    pass reads a slice.

    Attributes:
        held: the ids that rows begin with, whether they are in use or not.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        heads = config.num_attention_heads
        self.heads: int = getattr(config, "num_key_value_heads", None) or heads
        self.layers: int = config.num_hidden_layers
        self.dimensions: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.store = torch.zeros(
            0, *self.token_shape[:2], 0, self.token_shape[2], dtype=model.dtype, device=model.device
        )
        self.held: dict[int, tuple[int, ...]] = {}

    @property
    def token_shape(self) -> tuple[int, int, int]:
        """One token's keys and values: ``(sides, heads, dimensions)``."""
        return 2 * self.layers, self.heads, self.dimensions

    def make_room(self, rows: int, columns: int) -> None:
        """Hold at least so many rows and columns."""
        held_rows, _, _, held_columns, _ = self.store.shape
        if rows <= held_rows and columns <= held_columns:
            return
        # More than is asked for now, since each time all that is held is copied.
        rows = held_rows if rows <= held_rows else max(rows, 2 * held_rows)
        columns = held_columns if columns <= held_columns else max(columns + _ROOM, 2 * held_columns)
        shape = (rows, 2 * self.layers, self.heads, columns, self.dimensions)
        grown = _zeros(shape, self.store.dtype, self.store.device)
        grown[:held_rows, :, :, :held_columns] = self.store
        self.store = grown

    def tokens(self, row: int, start: int, end: int) -> Float[Tensor, "tokens sides heads dimensions"]:
        """Some columns of a row; what is written there is written to the row."""
        return self.store[row, :, :, start:end].permute(2, 0, 1, 3)

    def known(self, row: int, ids: Sequence[int]) -> int:
        """How many of these ids the row begins with."""
        return common(self.held.get(row, ()), ids)

    def move(self, source: int, target: int, end: int) -> None:
        """Copy so many columns of one row over those of another, but for what both begin with: all
        prompts may begin with the same examples."""
        held = self.held.get(source, ())
        start = self.known(target, held)
        self.store[target, :, :, start:end] = self.store[source, :, :, start:end]
        self.held[target] = held


def _zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Not `empty`: a masked value is still multiplied by 0, and 0 * nan is nan. numpy's zeros take no
    time and no memory until they are written to; torch writes to its own at once."""
    if device.type != "cpu":
        return torch.zeros(*shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(*shape)
