"""Generalised advantage estimation over the actions of token sequences."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""


def generalized_advantages(
    rewards: Tokens,
    values: Tokens,
    action_mask: Bool[Tensor, "batch tokens"],
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Tokens:
    """Return the generalised advantage of each action, 0 elsewhere (arXiv 1506.02438, eq. 16).

    ``A_k = sum_{l >= 0} (gamma * lam)^l * delta_{k+l}`` with
    ``delta_k = r_k + gamma * V_{k+1} - V_k``, where ``k`` counts the actions of a sequence: forced ids
    and padding are no time steps. A reward at a token that is no action, such as the end of a tool's
    reply, is earned by the last action before it; before the first action no one earns it. After the
    last action the value is 0: sequences are whole solutions.

    The sum of advantages and values is the lambda-return: what a critic learns.

    Args:
        rewards: at each token; 0 at padding.
        values: of the state before each action; what stands elsewhere is not read.
        action_mask: which tokens are actions.
        gamma: discount for each action.
        lam: 0 trusts the critic alone, 1 the rewards alone: ``A_k`` is then the return less ``V_k``.
    """
    rewards, values = rewards.float(), values.float()
    advantages = torch.zeros_like(rewards)
    following = next_value = earned = rewards.new_zeros(len(rewards))
    for t in reversed(range(rewards.shape[1])):
        is_action = action_mask[:, t]
        earned = earned + rewards[:, t]
        delta = earned + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * following
        advantages[:, t] = torch.where(is_action, advantage, 0.0)
        following = torch.where(is_action, advantage, following)
        next_value = torch.where(is_action, values[:, t], next_value)
        earned = torch.where(is_action, 0.0, earned)
    return advantages
