"""The entropy bonus, functional tokens apart from text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rftt.learners.experience import Experience

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""


def entropy_bonus(
    entropy: Tokens, batch: Experience, text_coef: float, functional_coef: float
) -> Tokens:
    """Return what is taken off the loss of each action: its distribution's entropy, in nats, times the
    coefficient of its kind."""
    return entropy * torch.where(batch.functional_mask, functional_coef, text_coef)
