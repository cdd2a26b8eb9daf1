"""A key-value cache with room to spare.

transformers' ``DynamicCache`` copies all it holds for each new token; for small models in large batches
that takes more time than the model does.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_ROOM: Final = 64
"""Tokens of spare room that a layer takes when it has none left."""


class _RoomyLayer(DynamicLayer):
    """Holds ``[rows, heads, tokens, dimensions]`` as views into larger tensors, and writes new tokens
    in place."""

    _stores: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        if self._stores is None or end > self._stores[0].shape[-2]:
            self._stores = (
                _roomy(self.keys, key_states, length),
                _roomy(self.values, value_states, length),
            )
        for store, new in zip(self._stores, (key_states, value_states), strict=True):
            store[..., length:end, :] = new
        self.keys, self.values = (store[..., :end, :] for store in self._stores)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._stores = None


def _roomy(held: Tensor | None, new: Tensor, length: int) -> Tensor:
    """A larger tensor that starts with what is held."""
    rows, heads, tokens, dimensions = new.shape
    store = new.new_empty(rows, heads, length + tokens + _ROOM, dimensions)
    if held is not None and length:
        store[..., :length, :] = held
    return store


def roomy_cache() -> Cache:
    """An empty cache for one batch of generation."""
    return Cache(layer_class_to_replicate=_RoomyLayer)
