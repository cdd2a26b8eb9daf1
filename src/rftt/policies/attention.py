"""The state that a model samples in: no dropout, and attention that copies no keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

_SHARED: Final = "rftt_shared_keys"


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
    """torch's attention for grouped queries (Ainslie et al. 2023), in the form of transformers'
    ``AttentionInterface``.

    transformers copies keys and values for every query of their group wherever there is a mask, and in
    decoding that takes longer than all the rest of the model.
    """
    mixed = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(_SHARED, shared_keys_attention)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a model is as it should be for sampling; after, as it was."""
    config = model.config.get_text_config()
    training, attention = model.training, config._attn_implementation
    # Of torch's kernels for GPUs, none takes both a mask and groups.
    shares = (
        attention == "sdpa"
        and model.device.type == "cpu"
        and getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)
    )
    if training:
        model.eval()
    if shares:
        # `set_attn_implementation` goes through all modules, which takes too long at each step.
        config._attn_implementation = _SHARED
    try:
        yield
    finally:
        if training:
            model.train()
        if shares:
            config._attn_implementation = attention
