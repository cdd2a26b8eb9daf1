"""Importance correction for a sampler whose probabilities are not quite the trainer's."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float
from torch import Tensor

from rftt.learners.experience import Experience

_log = logging.getLogger(__name__)

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""


@frozen
class ImportanceCorrection:
    """Weights ``w = pi_trainer / pi_sampler``, bounded, for rollouts of vLLM or of another precision.

    The loss of each action is multiplied by its weight (Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training"; IcePop and verl mask instead of truncating).

    Attributes:
        level: ``"token"`` weighs each action by itself, ``"sequence"`` each sequence by the product over
            its actions.
        mode: ``"truncate"`` lowers weights above ``high`` to it; ``"mask"`` gives actions whose weight
            is outside ``low`` to ``high`` the weight 0.
        low, high: the bounds.
    """

    level: Literal["token", "sequence"] = field(
        default="token", validator=validators.in_(("token", "sequence"))
    )
    mode: Literal["truncate", "mask"] = field(
        default="truncate", validator=validators.in_(("truncate", "mask"))
    )
    low: float = field(default=0.0, validator=validators.ge(0))
    high: float = field(default=2.0, validator=validators.gt(0))

    def __call__(self, mismatch: Tokens, action_mask: Bool[Tensor, "batch tokens"]) -> Tokens:
        """Return the weight of each action, 0 elsewhere.

        Args:
            mismatch: ``log pi_trainer - log pi_sampler`` of each action, 0 elsewhere.
            action_mask: which tokens are actions.
        """
        if self.level == "sequence":
            mismatch = mismatch.sum(1, keepdim=True).expand_as(mismatch)
        weights = mismatch.exp()
        if self.mode == "truncate":
            weights = weights.clamp(max=self.high)
        else:
            weights = torch.where((weights < self.low) | (weights > self.high), 0.0, weights)
        return weights * action_mask


def corrected(log_probs: Tokens, batch: Experience, correction: ImportanceCorrection | None) -> Tokens:
    """Return what each action's advantage is to be multiplied by, and log how far trainer and sampler
    are apart.

    Args:
        log_probs: the trainer's; those of the batch are the sampler's.
        batch: the sampled sequences.
        correction: the weights; ``None`` is 1 everywhere.
    """
    mismatch = (log_probs - batch.log_probs) * batch.action_mask
    _log.info("trainer and sampler: %s", mismatch_metrics(mismatch[batch.action_mask]))
    if correction is None:
        return torch.ones_like(log_probs)
    return correction(mismatch, batch.action_mask)


def mismatch_metrics(
    mismatch: Float[Tensor, " actions"],
) -> dict[str, float]:
    """Return what is logged of a mismatch: the mean and the largest absolute difference of
    log-probabilities, and the k3 estimate of ``KL(sampler || trainer)``."""
    if not mismatch.numel():
        return {}
    return {
        "mismatch": float(mismatch.abs().mean()),
        "mismatch_max": float(mismatch.abs().max()),
        "mismatch_kl": float((torch.expm1(mismatch) - mismatch).mean()),
    }
