"""From logits to log-probabilities and entropies, with one tensor of the vocabulary's size kept."""

from __future__ import annotations

from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rftt.tokens.automaton import TokenAutomaton

_LEAST: Final = -1e4
"""A log-probability whose ``exp`` is 0 in every type, and that stays finite times any gradient."""


def chosen_log_probs(
    logits: Float[Tensor, "rows vocab"],
    ids: Int64[Tensor, " rows"],
    states: Int64[Tensor, " rows"],
    automaton: TokenAutomaton | None,
    temperature: float = 1.0,
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return each id's natural log-probability and its distribution's entropy in nats.

    Both are float32, or the type of the logits where that is wider. An id that the automaton forbids has
    probability 0, and log-probability minus infinity.

    Args:
        logits: of the model, in any type.
        ids: an id for each row.
        states: the automaton's state in which it was drawn.
        automaton: ``None`` forbids nothing.
        temperature: divides the logits.
    """
    allowed = None if automaton is None else automaton.to(logits.device).mask(states)
    log_probs, entropies = _Distribution.apply(logits, ids, allowed, temperature)
    return log_probs, entropies


class _Distribution(torch.autograd.Function):
    """Log-softmax, gather and entropy as one operation.

    Of a language model's many ids, each tensor of [rows, vocab] is as large as the activations of
    several layers. As single operations these would keep five of them for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Float[Tensor, "rows vocab"],
        ids: Int64[Tensor, " rows"],
        allowed: Bool[Tensor, "rows vocab"] | None,
        temperature: float,
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        scaled = logits.to(dtype, copy=True)
        if temperature != 1.0:
            scaled /= temperature
        if allowed is not None:
            scaled.masked_fill_(~allowed, -torch.inf)
        log_probs = scaled.log_softmax(-1)
        del scaled
        chosen = log_probs.gather(1, ids[:, None])[:, 0]
        # Of an id without probability p log p is 0, not 0 times infinity.
        log_probs.clamp_(min=_LEAST)
        entropies = -log_probs.exp().mul_(log_probs).sum(-1)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(log_probs, ids, entropies)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        """``d log p_k / d z = onehot_k - p`` and ``d H / d z = -p (log p + H)``, by temperature."""
        log_probs, ids, entropies = ctx.saved_tensors
        of_chosen, of_entropy = gradients
        if of_chosen is None and of_entropy is None:
            return None, None, None, None
        result = log_probs.exp()
        if of_entropy is None:
            slope = torch.zeros_like(entropies)[:, None]
        else:
            slope = (log_probs + entropies[:, None]).mul_(of_entropy[:, None])
        if of_chosen is not None:
            slope += of_chosen[:, None]
        result *= slope.neg_()
        if of_chosen is not None:
            result.scatter_add_(1, ids[:, None], of_chosen[:, None])
        result /= ctx.temperature
        return result.to(ctx.dtype), None, None, None
