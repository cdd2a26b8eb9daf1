"""Which models take packed rows, and the attention mask in the form that each takes."""

from __future__ import annotations

import inspect
import logging
from typing import Any, Final

import torch
from jaxtyping import Int64
from torch import Tensor

from rftt.learners.forward.tree_mask import RUN, TreeMask, dense_mask
from rftt.learners.reference import WithoutAdapter

_log = logging.getLogger(__name__)
_said: set[tuple[str, str]] = set()

_MASKED: Final = ("sdpa", "eager", "flex_attention")
"""Implementations of attention that take a mask of pairs of places."""
_WINDOWS: Final = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
"""Kinds of layers that see only so far back, with the setting that says how far."""
_DENSE_ROW: Final = 1024
"""Places of a row that needs a dense mask: its memory grows with the square, to 4 MB of floats here."""


def base_model(model: Any) -> Any:
    """Return the model inside an adapter; one without adapters is returned as it is."""
    if isinstance(model, WithoutAdapter):
        model = model._model
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes(model: Any, argument: str) -> bool:
    """Return whether a model's forward pass has an argument of this name."""
    base = base_model(model)
    return argument in inspect.signature(getattr(base, "forward", base)).parameters


def attention_of(model: Any) -> str | None:
    """Return the name of a model's implementation of attention; ``None`` if it does not say."""
    config = getattr(base_model(model), "config", None)
    return None if config is None else getattr(config.get_text_config(), "_attn_implementation", None)


def packing_obstacle(model: Any, longest: int) -> str | None:
    """Return why a model cannot take packed rows whose longest path has ``longest`` tokens; ``None`` if
    it can.

    It must take a mask of pairs of places, and a position for each. A window that no path is longer than
    hides nothing.
    """
    base = base_model(model)
    if getattr(base, "_is_stateful", False):
        return "it is recurrent"
    if not takes(model, "position_ids"):
        return "it takes no position_ids"
    if (config := getattr(base, "config", None)) is None:
        return None
    if (attention := attention_of(model)) not in (None, *_MASKED):
        return f"its attention {attention!r} takes no mask of pairs; load it with 'sdpa'"
    config = config.get_text_config()
    if getattr(config, "alibi", False):
        return "its ALiBi takes distances from the order of places"
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]
    for kind in dict.fromkeys(kinds):
        if kind == "full_attention":
            continue
        if kind not in _WINDOWS:
            return f"it has layers of kind {kind!r}"
        window = getattr(config, _WINDOWS[kind], None)
        if window is not None and longest > window:
            return f"it has layers that see {window} tokens, fewer than the longest path"
    return None


def say_once(model: Any, obstacle: str) -> None:
    """Log that rows are not packed, once for each kind of model and reason."""
    name = type(base_model(model)).__name__
    if (name, obstacle) not in _said:
        _said.add((name, obstacle))
        _log.warning(
            "%s: %s; a prefix that sequences share is computed for each of them", name, obstacle
        )


def row_tokens(model: Any) -> int:
    """Return how many places a packed row should have at most: without a dense mask any number."""
    sparse = attention_of(model) in ("sdpa", "flex_attention")
    return torch.iinfo(torch.int64).max if sparse else _DENSE_ROW


def tree_mask(subtree_end: Int64[Tensor, "rows width"], model: Any) -> Any:
    """Return the mask of packed rows, ``[rows, 1, width, width]``, in the form that the model takes.

    For SDPA it is a :class:`~rftt.learners.forward.tree_mask.TreeMask`, for FlexAttention a
    ``BlockMask``, for eager attention, which adds it, floats: 0 or the smallest number; else bools.
    """
    attention = attention_of(model)
    if attention == "flex_attention":
        return _block_mask(subtree_end)
    if attention == "sdpa" and subtree_end.shape[1] > 2 * RUN:
        return TreeMask.of(subtree_end)
    seen = dense_mask(subtree_end)
    if attention != "eager":
        return seen
    dtype = base_model(model).dtype
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def _block_mask(subtree_end: Int64[Tensor, "rows width"]) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    (rows, width), device = subtree_end.shape, subtree_end.device
    return create_block_mask(
        lambda row, head, query, key: (key <= query) & (query < subtree_end[row, key]),
        rows, None, width, width, device=device,
        # Compiled, it never holds a mask of all pairs.
        _compile=device.type == "cuda",
    )  # fmt: skip
