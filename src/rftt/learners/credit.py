"""Credit assignment: from rewards to advantages. Pure functions on padded batches of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def discounted_returns(
    rewards: Float[Tensor, "batch tokens"], gamma: float = 1.0
) -> Float[Tensor, "batch tokens"]:
    """Return the discounted sum of the rewards still to come: ``G_t = r_t + gamma * G_{t+1}``.

    Rewards at padding and at tokens that are no actions count as they are (give 0), and the sum is
    carried through them.
    """
    following = torch.zeros_like(rewards[:, 0])
    returns = torch.empty_like(rewards)
    for t in range(rewards.shape[1] - 1, -1, -1):
        following = rewards[:, t] + gamma * following
        returns[:, t] = following
    return returns


def group_mean(
    values: Float[Tensor, "*shape"], groups: Int64[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Replace each value by the mean of its group.

    Args:
        values: any numbers.
        groups: for each value, the number of its group, from 0; -1 marks a value that is in no group
            and stays as it is.
    """
    grouped = groups >= 0
    size = int(groups.max()) + 1 if grouped.any() else 0
    index, members = groups[grouped], values[grouped]
    sums = values.new_zeros(size).index_add(0, index, members)
    counts = values.new_zeros(size).index_add(0, index, torch.ones_like(members))
    means = values.clone()
    means[grouped] = (sums / counts)[index]
    return means


def whiten(
    values: Float[Tensor, "batch tokens"],
    mask: Bool[Tensor, "batch tokens"],
    *,
    centre: bool = True,
    eps: float = 1e-8,
) -> Float[Tensor, "batch tokens"]:
    """Scale the masked values of the batch to mean 0 and variance 1; return exactly 0 elsewhere.

    REINFORCE++ (arXiv 2501.03262) normalises so over all action tokens of the global batch. Where all
    values are equal to within rounding, all become 0.

    Args:
        values: what is scaled.
        mask: which values count.
        centre: whether to subtract the mean. Without it the mean square becomes 1 and 0 stays 0, as it
            should where the values are differences already.
        eps: added to the variance, which is the population's (divided by the count).
    """
    counted = values[mask]
    if counted.numel() == 0:
        return torch.zeros_like(values)
    centred = counted - counted.mean() if centre else counted
    variance = centred.square().mean()
    scale = counted.abs().max().clamp(min=1.0)
    whitened = torch.zeros_like(values)
    if variance.sqrt() > 1e-6 * scale:
        whitened[mask] = centred / (variance + eps).sqrt()
    return whitened
