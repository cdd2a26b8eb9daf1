"""Losses and estimators of the KL divergence, token by token. Pure functions.

The estimators are Schulman's ("Approximating KL divergence", 2020), for tokens drawn from the
policy; ``log_ratio`` is ``log policy - log reference``.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "rows tokens"]


def k1(log_ratio: Tokens) -> Tokens:
    """Unbiased, of high variance, may be negative: ``log_ratio``."""
    return log_ratio


def k2(log_ratio: Tokens) -> Tokens:
    """Biased, of low variance: ``log_ratio ** 2 / 2``. Its gradient is that of the true KL."""
    return log_ratio.square() / 2


def k3(log_ratio: Tokens) -> Tokens:
    """Unbiased and never negative: ``exp(-log_ratio) - 1 + log_ratio``."""
    return torch.expm1(-log_ratio) + log_ratio


def clipped_policy_loss(
    log_probs: Tokens, old_log_probs: Tokens, advantages: Tokens, clip: float
) -> Tokens:
    """PPO's pessimistic loss (Schulman et al. 2017, eq. 7) for each token:
    ``-min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A)``."""
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def token_mean(values: Tokens, mask: Bool[Tensor, "rows tokens"], count: int) -> Float[Tensor, ""]:
    """Sum over masked places divided by ``count``, the number of masked places in the whole batch.

    Given the whole batch's count, the parts of a batch add up to it, however it is split.
    """
    return torch.where(mask, values, 0.0).sum() / count
