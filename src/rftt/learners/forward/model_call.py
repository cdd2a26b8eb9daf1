"""Call a model for its logits at a few places only."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from rftt.learners.forward.attention import base_model


def logits_at(
    model: Any, inputs: dict[str, Any], places: Int64[Tensor, " places"], *, hidden: bool
) -> tuple[Float[Tensor, "places vocab"], Float[Tensor, "places size"] | None]:
    """Return logits and, if asked for, last hidden states at some places of the flattened rows.

    The output layer can be as large as the body, and most places need no logits: a hook leaves it only
    ``places``. The model is called as a whole, so adapters, wrappers and what a model does to its logits
    are as always. A model without an output layer gives all logits.

    Args:
        model: a causal language model, or what can be called like one.
        inputs: keyword arguments for it.
        places: of the flattened ``input_ids``.
        hidden: whether to return what the output layer reads.
    """
    base = base_model(model)
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    if head is None:
        output = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
        states = output.hidden_states[-1].flatten(0, 1)[places] if hidden else None
        return output.logits.flatten(0, 1)[places], states
    read: list[Tensor] = []

    def leave_places(module: Any, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        read.append(arguments[0].flatten(0, 1)[places])
        return (read[-1][None], *arguments[1:])

    hook = head.register_forward_pre_hook(leave_places)
    try:
        output = model(**inputs)
    finally:
        hook.remove()
    if len(read) != 1:
        raise ValueError(
            f"{type(base).__name__} called its output layer {len(read)} times in a forward pass, not "
            "once: it cannot be told at which places it is needed"
        )
    return output.logits[0], read[0] if hidden else None
