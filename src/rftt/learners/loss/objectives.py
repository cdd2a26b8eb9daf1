"""Policy-gradient objectives, as a loss for each token."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""

Objective = Callable[[Tokens, Tokens], Tokens]
"""From the logarithm of a ratio and an advantage to a loss, for each token."""


def plain(log_ratio: Tokens, advantages: Tokens) -> Tokens:
    """Return ``-ratio * A``: the policy gradient with importance sampling, without a clip."""
    return -log_ratio.exp() * advantages


@frozen
class Clipped:
    """PPO's clipped loss (arXiv 1707.06347, eq. 7), with a bound of its own on each side (DAPO's
    clip-higher, arXiv 2503.14476, eq. 8): ``-min(ratio * A, clamp(ratio, 1 - low, 1 + high) * A)``.

    Attributes:
        low, high: how far the ratio may fall and rise before its gradient ends.
    """

    low: float = field(default=0.2, validator=[validators.gt(0), validators.le(1)])
    high: float = field(default=0.2, validator=validators.gt(0))

    def __call__(self, log_ratio: Tokens, advantages: Tokens) -> Tokens:
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.low, 1 + self.high)
        return -torch.minimum(ratio * advantages, clipped * advantages)

    def is_clipped(self, log_ratio: Tokens, advantages: Tokens) -> Bool[Tensor, "batch tokens"]:
        """Return where the clip takes the gradient away."""
        return ((log_ratio > math.log1p(self.high)) & (advantages > 0)) | (
            (log_ratio < _log1m(self.low)) & (advantages < 0)
        )


@frozen
class CISPO:
    """Clipped importance-sampling weights (MiniMax-M1, arXiv 2506.13585, eq. 4):
    ``-stop_gradient(clamp(ratio, 1 - low, 1 + high)) * A * log pi``. No token loses its gradient.

    The loss has ``log_ratio`` in the place of ``log pi``: they differ by a constant.

    Attributes:
        low, high: bounds of the weight. The paper clips above only: ``low`` is 1.
    """

    low: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    high: float = field(default=4.0, validator=validators.gt(0))

    def __call__(self, log_ratio: Tokens, advantages: Tokens) -> Tokens:
        weight = log_ratio.detach().exp().clamp(1 - self.low, 1 + self.high)
        return -weight * advantages * log_ratio

    def is_clipped(self, log_ratio: Tokens, advantages: Tokens) -> Bool[Tensor, "batch tokens"]:
        """Return where the weight is at a bound."""
        return (log_ratio > math.log1p(self.high)) | (log_ratio < _log1m(self.low))


def _log1m(x: float) -> float:
    return math.log1p(-x) if x < 1 else -math.inf
