"""Importance ratios of the policy being tuned to the one that sampled, as logarithms."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from rftt.learners.experience import Experience

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""

Ratio = Callable[[Tokens, Experience], Tokens]
"""From new log-probabilities and the batch to the logarithm of a ratio for each action; 0 elsewhere."""


def token_ratio(log_probs: Tokens, batch: Experience) -> Tokens:
    """Return ``log pi_new(token) - log pi_old(token)`` (PPO, arXiv 1707.06347)."""
    return (log_probs - batch.log_probs) * batch.action_mask


def sequence_ratio(log_probs: Tokens, batch: Experience) -> Tokens:
    """Return at each action the mean of :func:`token_ratio` over its sequence's actions: the logarithm
    of GSPO's length-normalised sequence ratio (arXiv 2507.18071, eq. 7)."""
    actions = batch.action_mask.sum(1, keepdim=True).clamp(min=1)
    return token_ratio(log_probs, batch).sum(1, keepdim=True) / actions * batch.action_mask
