"""The attention that a model samples with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

Attention = Callable[..., tuple[Tensor, Any]]
"""In the form of transformers' ``AttentionInterface``."""


def torch_attention(model: PreTrainedModel) -> Attention:
    """Attention with a mask by torch's kernels, for a model where it is now."""
    config = model.config.get_text_config()
    groups = getattr(config, "num_key_value_heads", None)
    # Of torch's kernels for GPUs, none takes both a mask and groups.
    if model.device.type == "cpu" and groups not in (None, config.num_attention_heads):
        return shared_keys_attention
    return sdpa_attention_forward


def eager_attention(module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
    """The attention of the model's own code, which some families need."""
    attention: Attention = sys.modules[type(module).__module__].eager_attention_forward
    return attention(module, *args, **kwargs)


def shared_keys_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "rows heads new dimensions"],
    key: Float[Tensor, "rows groups width dimensions"],
    value: Float[Tensor, "rows groups width dimensions"],
    attention_mask: Float[Tensor, "rows 1 new width"],
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Float[Tensor, "rows new heads dimensions"], None]:
    """torch's attention for grouped queries (Ainslie et al. 2023).

    transformers copies keys and values for every query of their group wherever there is a mask, and in
    decoding that takes longer than all the rest of the model.
    """
    mixed = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return mixed.transpose(1, 2).contiguous(), None
