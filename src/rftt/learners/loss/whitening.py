"""Whitening over the actions of the global batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rftt.learners.distributed import global_max, global_sum

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""

_RELATIVE_EPS = 1e-6
"""Values that differ by less than this, relative to the largest, differ by rounding alone."""


def moments(values: Tokens, weights: Tokens) -> tuple[float, float]:
    """Return the weighted mean and population variance over all processes; (0, 0) of nothing."""
    total, weighted = global_sum(
        [float(weights.double().sum()), float((weights.double() * values.double()).sum())]
    )
    if total == 0:
        return 0.0, 0.0
    mean = weighted / total
    (squares,) = global_sum([float((weights.double() * (values.double() - mean).square()).sum())])
    return mean, squares / total


def whiten(values: Tokens, weights: Tokens, *, eps: float = 1e-8) -> Tokens:
    """Scale values to mean 0 and variance 1 over the actions of the global batch; return exactly 0
    where the weight is 0.

    REINFORCE++ (arXiv 2501.03262) normalises so. Where all values are equal to within rounding, all
    become 0.

    Args:
        values: what is scaled.
        weights: how often each value counts.
        eps: added to the variance, which is the population's (divided by the count).
    """
    mean, variance = moments(values, weights)
    counted = values[weights > 0]
    (largest,) = global_max([float(counted.abs().max()) if counted.numel() else 0.0])
    if variance**0.5 <= _RELATIVE_EPS * max(largest, 1.0):
        return torch.zeros_like(values)
    return torch.where(weights > 0, (values - mean) / (variance + eps) ** 0.5, 0.0)
