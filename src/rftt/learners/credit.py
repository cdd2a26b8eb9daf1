"""Credit assignment: from rewards to advantages. Pure functions on padded rows of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def returns(rewards: Float[Tensor, "rows tokens"], gamma: float = 1.0) -> Float[Tensor, "rows tokens"]:
    """Discounted sums of what is still to come: ``G_t = r_t + gamma * G_{t+1}``.

    Rewards at padding and at tokens that were not chosen count as they are (give 0), and the sum
    is carried through them.
    """
    total = torch.zeros_like(rewards[:, 0])
    sums = torch.empty_like(rewards)
    for t in range(rewards.shape[1] - 1, -1, -1):
        total = rewards[:, t] + gamma * total
        sums[:, t] = total
    return sums


def mean_over_shared(
    values: Float[Tensor, "rows tokens"], owner: Int64[Tensor, "rows tokens"]
) -> Float[Tensor, "rows tokens"]:
    """Replace each value by the mean over all places with the same owner.

    Rows that are paths through one tree share their first tokens: a token on the tree was sampled
    once, and its return is the mean over the rollouts through it. ``owner`` numbers the tokens of
    the tree from 0; -1 marks places that belong to none, which keep their value.
    """
    real = owner >= 0
    size = int(owner.max()) + 1 if real.any() else 0
    index, chosen = owner[real], values[real]
    sums = values.new_zeros(size).index_add(0, index, chosen)
    counts = values.new_zeros(size).index_add(0, index, torch.ones_like(chosen))
    result = values.clone()
    result[real] = (sums / counts)[index]
    return result


def whiten(
    values: Float[Tensor, "rows tokens"],
    mask: Bool[Tensor, "rows tokens"],
    *,
    centre: bool = True,
    eps: float = 1e-8,
) -> Float[Tensor, "rows tokens"]:
    """Zero mean and unit variance over the masked places of the whole batch; exactly 0 elsewhere.

    The variance is the population's (divided by the count). Where all values are equal to within
    rounding, all are 0. REINFORCE++ (arXiv 2501.03262) normalises so over all action tokens of the
    global batch. With ``centre=False`` the mean stays where it is and the mean square becomes 1: for
    values that are differences already, of which 0 should stay 0.
    """
    chosen = values[mask]
    if chosen.numel() == 0:
        return torch.zeros_like(values)
    centred = chosen - chosen.mean() if centre else chosen
    variance = centred.square().mean()
    scale = chosen.abs().max().clamp(min=1.0)
    result = torch.zeros_like(values)
    if variance.sqrt() > 1e-6 * scale:
        result[mask] = centred / (variance + eps).sqrt()
    return result
