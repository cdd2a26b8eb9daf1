"""The attention that a model samples with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

Attention = Callable[..., tuple[Tensor, Any]]
"""In the form of transformers' ``AttentionInterface``."""


def torch_attention(model: PreTrainedModel) -> Attention:
    """Attention with a mask by torch's kernels."""
    config = model.config.get_text_config()
    groups = getattr(config, "num_key_value_heads", None)
    if groups in (None, config.num_attention_heads):
        return sdpa_attention_forward
    return grouped_attention


@contextmanager
def without_cudnn() -> Iterator[None]:
    """Inside, torch's attention is not cuDNN's, which it would prefer for half precision on some GPUs.
    That is prepared anew for each new shape, every pass of a sampler has one, and to prepare it takes
    longer than all the rest of a pass."""
    was_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was_enabled)


def eager_attention(module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    """The attention of the model's own code, which some families need."""
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
    """Attention for grouped queries (Ainslie et al. 2023): to torch's kernels, the heads of a group are
    one head with so many times the queries.

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
