"""Estimators of the KL divergence to a reference, and the penalty made of one.

The estimators are Schulman's ("Approximating KL divergence", 2020), for tokens drawn from the
policy; ``log_ratio`` is ``log policy - log reference``.
"""

from __future__ import annotations

from typing import Literal

import torch
from attrs import field, frozen, validators
from jaxtyping import Float
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


_ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}


@frozen
class KLPenalty:
    """A penalty on the KL divergence to the reference.

    Attributes:
        coef: its weight.
        estimator: ``"k1"`` lowers the reward of each action by ``coef * log_ratio``, and each action
            answers for those after it too; ``"k2"`` and ``"k3"`` are terms of the loss.
        of_sequence: with ``"k1"``, whether each action answers for the KL of its whole rollout, less
            the mean of its group's other rollouts, as in RLOO.
        functional_coef: its weight at functional tokens; ``None`` is ``coef``.
        target: the KL a token that the coefficient is steered to; ``None`` keeps it fixed.
        horizon: rollouts in which a deviation of 20% or more from ``target`` changes the coefficient
            by a fifth (Ziegler et al., arXiv 1909.08593, section 2.2).
    """

    coef: float = field(default=0.01, validator=validators.ge(0))
    estimator: Literal["k1", "k2", "k3"] = field(
        default="k3", validator=validators.in_(("k1", "k2", "k3"))
    )
    of_sequence: bool = False
    functional_coef: float | None = field(default=None, validator=validators.optional(validators.ge(0)))
    target: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    horizon: float = field(default=10_000.0, validator=validators.gt(0))

    def __call__(
        self, log_ratio: Tokens, functional_mask: Tensor, scale: float | Tensor = 1.0
    ) -> Tokens:
        """Return the penalty of each token.

        Args:
            log_ratio: ``log policy - log reference``.
            functional_mask: which tokens are functional tokens.
            scale: what an adaptive controller multiplies the coefficient by.
        """
        text, functional = self.coef, self.functional_coef
        penalty = _ESTIMATORS[self.estimator](log_ratio) * (text * scale)
        if functional is None:
            return penalty
        return torch.where(
            functional_mask, _ESTIMATORS[self.estimator](log_ratio) * (functional * scale), penalty
        )

    def adapted(self, scale: float, kl: float, rollouts: float) -> float:
        """Return the controller's next scale, given the KL of an update and its number of rollouts:
        ``scale * (1 + clip(kl / target - 1, -0.2, 0.2) * rollouts / horizon)``."""
        if self.target is None:
            return scale
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return scale * (1.0 + error * rollouts / self.horizon)
