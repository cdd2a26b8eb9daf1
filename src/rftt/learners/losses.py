"""Losses and estimators of the KL divergence, token by token. Pure functions.

The estimators are Schulman's ("Approximating KL divergence", 2020), for tokens drawn from the
policy; ``log_ratio`` is ``log policy - log reference``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""


def k1(log_ratio: Tokens) -> Tokens:
    """Estimate the KL by ``log_ratio``: unbiased, of high variance, may be negative."""
    return log_ratio


def k2(log_ratio: Tokens) -> Tokens:
    """Estimate the KL by ``log_ratio ** 2 / 2``: biased, of low variance; its gradient is that of the
    true KL."""
    return log_ratio.square() / 2


def k3(log_ratio: Tokens) -> Tokens:
    """Estimate the KL by ``exp(-log_ratio) - 1 + log_ratio``: unbiased and never negative."""
    return torch.expm1(-log_ratio) + log_ratio


def clipped_policy_loss(
    log_probs: Tokens, old_log_probs: Tokens, advantages: Tokens, clip_epsilon: float
) -> Tokens:
    """Return PPO's clipped loss for each token (Schulman et al. 2017, arXiv 1707.06347, eq. 7):
    ``-min(ratio * A, clamp(ratio, 1 - epsilon, 1 + epsilon) * A)``."""
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def token_mean(values: Tokens, mask: Bool[Tensor, "batch tokens"], count: int) -> Float[Tensor, ""]:
    """Sum the masked values and divide by ``count``, the number of masked places in the batch.

    Given the count of the full batch, its micro-batches add up to it, however it is split.
    """
    return torch.where(mask, values, 0.0).sum() / count
