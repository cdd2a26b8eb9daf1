"""One forward pass over new ids of many rows.

All new ids stand one behind the other, as one sequence, so that nothing is computed for padding and rows
that read a prompt share the pass with rows that read one id. Only attention tells rows apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any, Final

import numpy as np
import torch
from attrs import define, frozen
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rftt.policies.attention import Attention, eager_attention, torch_attention, without_cudnn
from rftt.policies.blocks import Block

_PACKED: Final = "rftt_packed"


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
        self._config = model.config.get_text_config()
        # Made once: they take as long as several small operations on tensors.
        self._attention = torch_attention(model)
        self._pass = _Pass()
        layers = range(self._config.num_hidden_layers)
        self._cache = Cache(layers=[_Layer(self._pass, layer) for layer in layers])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, there is no dropout and no attention by cuDNN; after, all is as it was."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with without_cudnn():
                yield
        finally:
            if training:
                self.model.train()

    def read(self, blocks: Sequence[Block]) -> Float[Tensor, "rows size"]:
        """Read new ids, and keep their keys and values in their rows; for each row of which the last id
        is read, one block's after another's, the logits of what comes next."""
        attention = self._config._attn_implementation
        device = blocks[0].slots.store.device
        columns = _joined([block.columns for block in blocks], device)
        self._pass.blocks, self._pass.places = blocks, _places(blocks, columns)
        self._pass.attention = eager_attention if attention == "eager" else self._attention
        self._config._attn_implementation = _PACKED
        try:
            output = self.model(
                input_ids=_joined([block.ids for block in blocks], device)[None],
                position_ids=columns[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=_joined(_last(blocks), device),
            )
        finally:
            self._config._attn_implementation = attention
            self._pass.blocks, self._pass.places = (), ()
        logits: Tensor = output.logits[0]
        return logits


def _joined(parts: Sequence[Int64[np.ndarray, " _"]], device: torch.device) -> Int64[Tensor, " ids"]:
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _last(blocks: Sequence[Block]) -> list[Int64[np.ndarray, " rows"]]:
    """Where the last ids of rows are among all that are read."""
    before = accumulate((block.size for block in blocks), initial=0)
    starts = zip(blocks, before, strict=False)
    return [np.arange(start, start + block.size) for block, start in starts if block.is_last]


@frozen(eq=False)
class _Places:
    """Where keys and values of the next so many new ids go."""

    store: Float[Tensor, "rows sides heads columns dimensions"]
    rows: Int64[Tensor, " ids"]
    columns: Int64[Tensor, " ids"]


def _places(blocks: Sequence[Block], columns: Int64[Tensor, " ids"]) -> list[_Places]:
    """Blocks of the same slots together: each writing takes some time, however little is written."""
    groups = [list(group) for _, group in groupby(blocks, key=lambda block: id(block.slots))]
    sizes = [sum(block.size for block in group) for group in groups]
    rows = _joined(
        [block.place.start + block.place.step * block.rows for block in blocks], columns.device
    )
    parts = zip(groups, rows.split(sizes), columns.split(sizes), strict=True)
    return [_Places(group[0].slots.store, *where) for group, *where in parts]


@define
class _Pass:
    """What is read by the forward pass under way. Layers hold this, and not the model: memory in a
    circle is given back late."""

    blocks: Sequence[Block] = ()
    places: Sequence[_Places] = ()
    attention: Attention = sdpa_attention_forward


class _Layer(DynamicLayer):
    """One layer's keys and values in the rows of the blocks that are read. It stands for both where
    transformers passes tensors from a cache to attention."""

    def __init__(self, under_way: _Pass, layer: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.under_way, self.layer = under_way, layer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        places = self.under_way.places
        for side, states in enumerate((key_states, value_states), start=2 * self.layer):
            parts = states[0].split([len(place.rows) for place in places], 1)
            for place, part in zip(places, parts, strict=True):
                place.store[place.rows, side, :, place.columns] = part.transpose(0, 1)
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
    parts = query[0].split([block.size for block in blocks], 1)
    for block, part in zip(blocks, parts, strict=True):
        if block.is_even:
            grid = part.unflatten(1, (block.height, block.new)).transpose(0, 1)
        else:
            grid = part.new_zeros(block.height, len(part), block.new, part.shape[2])
            rows, offsets = block.grid
            grid[rows, :, offsets] = part.transpose(0, 1)
        keys, values = block.kept[:, 2 * key.layer], block.kept[:, 2 * key.layer + 1]
        out, _ = attention(module, grid, keys, values, block.mask(sliding_window), **kwargs)
        mixed.append(out.flatten(0, 1) if block.is_even else out[block.grid])
    return torch.cat(mixed)[None], None


AttentionInterface.register(_PACKED, packed_attention)
