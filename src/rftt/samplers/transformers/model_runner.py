"""One forward pass over new ids of many sequences, packed into one.

Every sequence has a slot of the KV cache. In one pass some decode, which takes their last id, and some
also prefill what is unknown of their prompt::

    slot   cached      new            packed input, one sequence to the model

     0     a b c       d        -->   ids     | g  h  n  o  p | d  i  l  q
     1     f           g h i          slots   | 1  1  3  3  3 | 0  1  2  3
     2     j k         l              columns | 1  2  1  2  3 | 3  3  2  4
     3     m           n o p q                  prefill         decode

Nothing is computed for padding, but in attention. In each layer the keys and values of all new ids are
first written to ``store[slot, :, :, column]``. Then each segment attends to the slots of its own
sequences: the decode segment, the last ids of all slots, to a slice of the store; prefill segments,
whose sequences may stand in any slots, to rows gathered from it. Logits are computed for the decode
segment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from attrs import define
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rftt.samplers.model_state import evaluating
from rftt.samplers.transformers.batch import BatchSegment

_PACKED: Final = "rftt_packed"

Attention = Callable[..., tuple[Tensor, Any]]
"""Function in the form of transformers' ``AttentionInterface``."""


class ModelRunner:
    """Runs a model on batch segments.

    Raises:
        ValueError: if the model's family computes attention in a way of its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if not getattr(model, "_supports_attention_backend", False):
            raise ValueError(
                f"{type(model).__name__} does not take attention from transformers' AttentionInterface; "
                "use PlainSampler"
            )
        self.model = model
        self._config = model.config.get_text_config()
        self._pass = _Pass()
        # Made once: these take as long as several small operations on tensors.
        layers = range(self._config.num_hidden_layers)
        self._cache = Cache(layers=[_Layer(self._pass, layer) for layer in layers])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Disable dropout and cuDNN's attention inside."""
        with evaluating(self.model), without_cudnn():
            yield

    def forward(
        self,
        store: Float[Tensor, "slots sides heads columns dimensions"],
        segments: Sequence[BatchSegment],
    ) -> Float[Tensor, "ids size"]:
        """Compute new ids and write their keys and values to their slots. Return the logits that follow
        the ids of the decode segment, which is the last one; without it, those after the last id."""
        kept = len(segments[-1].ids) if segments[-1].is_decode else 1
        packed = np.concatenate([part.packed for part in segments], 1)
        ids, slots, columns = torch.from_numpy(packed).to(store.device)
        implementation = self._config._attn_implementation
        self._pass.attention = select_attention(self._config)
        self._pass.store, self._pass.segments = store, segments
        self._pass.slots, self._pass.columns = slots, columns
        self._config._attn_implementation = _PACKED
        try:
            output = self.model(
                input_ids=ids[None],
                position_ids=columns[None],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=kept,
            )
        finally:
            self._config._attn_implementation = implementation
            self._pass.clear()
        logits: Tensor = output.logits[0]
        return logits


@define
class _Pass:
    """What the layers need in the forward pass under way. They hold this, and not the model: a circle
    would keep the model in memory."""

    attention: Attention = sdpa_attention_forward
    store: Tensor | None = None
    slots: Tensor | None = None
    columns: Tensor | None = None
    segments: Sequence[BatchSegment] = ()

    def clear(self) -> None:
        self.store = self.slots = self.columns = None
        self.segments = ()


class _Layer(DynamicLayer):
    """One layer of the KV cache. It takes the place of keys and values on their way from a cache of
    transformers to attention."""

    def __init__(self, under_way: _Pass, layer: int) -> None:
        super().__init__()
        self.is_initialized = True
        self.under_way, self.layer = under_way, layer

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        now = self.under_way
        assert now.store is not None
        for side, states in enumerate((key_states, value_states), start=2 * self.layer):
            now.store[now.slots, side, :, now.columns] = states[0].transpose(0, 1)
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
    """Compute attention of each segment's ids to their own slots, in the form of transformers'
    ``AttentionInterface``."""
    now = key.under_way
    assert now.store is not None
    mixed = []
    queries = query[0].transpose(0, 1).split([len(part.ids) for part in now.segments])
    for part, packed in zip(now.segments, queries, strict=True):
        out, _ = now.attention(
            module,
            part.queries(packed),
            part.keys(now.store, 2 * key.layer),
            part.keys(now.store, 2 * key.layer + 1),
            part.mask(sliding_window, now.store.dtype),
            **kwargs,
        )
        mixed.append(part.pack(out))
    return torch.cat(mixed)[None], None


AttentionInterface.register(_PACKED, packed_attention)


def select_attention(config: PreTrainedConfig) -> Attention:
    """Return the kernel for a model: eager where the model is set to that, else torch's."""
    if config._attn_implementation == "eager":
        return eager_attention
    groups = getattr(config, "num_key_value_heads", None)
    if groups in (None, config.num_attention_heads):
        return sdpa_attention_forward
    return grouped_attention


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Disable cuDNN's attention, which torch prefers for half precision on some GPUs.

    It is compiled anew for each new shape, every pass of a sampler has one, and that takes longer than
    all the rest of a pass."""
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def eager_attention(module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    """Compute attention by the model's own code, which some families need."""
    attention: Attention = sys.modules[type(module).__module__].eager_attention_forward
    return attention(module, *args, **kwargs)


def grouped_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "rows heads new dimensions"],
    key: Float[Tensor, "rows groups width dimensions"],
    value: Float[Tensor, "rows groups width dimensions"],
    attention_mask: Float[Tensor, "rows 1 new width"],
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Float[Tensor, "rows new heads dimensions"], None]:
    """Compute attention of grouped queries (Ainslie et al. 2023): to torch's kernels, the heads of a
    group are one head with so many times the queries.

    transformers copies keys and values for every head of their group wherever there is a mask. In
    decoding on a GPU, that takes several times as long as all the rest of attention.
    """
    rows, heads, new, dimensions = query.shape
    groups = key.shape[1]
    mask = attention_mask if new == 1 else attention_mask.repeat(1, 1, heads // groups, 1)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, groups, -1, dimensions), key, value, mask, dropout, scale=scaling
    )
    return mixed.reshape(query.shape).transpose(1, 2), None
