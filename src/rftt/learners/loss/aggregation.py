"""From a loss for each token to the loss of a batch.

What is divided by comes from the totals of the full batch of all processes, so that the losses of its
micro-batches add up to its own, however it is split.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen, validators
from jaxtyping import Float
from torch import Tensor

from rftt.learners.experience import Experience

Tokens = Float[Tensor, "batch tokens"]
"""One number for each token of a padded batch."""

Aggregation = Callable[[Tokens, Experience], Float[Tensor, ""]]
"""From a number for each token to one for the batch."""


def token_mean(values: Tokens, batch: Experience) -> Float[Tensor, ""]:
    """Return the mean over the actions of the full batch (DAPO, arXiv 2503.14476, eq. 8): long
    rollouts count for more than short ones."""
    return (values * batch.weights).sum() / max(batch.totals.actions, 1e-30)


def sequence_mean(values: Tokens, batch: Experience) -> Float[Tensor, ""]:
    """Return the mean over rollouts of the mean over each one's actions (GRPO, arXiv 2402.03300,
    eq. 3): a token of a long rollout counts for less."""
    actions = batch.action_mask.sum(1).clamp(min=1)
    return ((values * batch.weights).sum(1) / actions).sum() / max(batch.totals.sequences, 1e-30)


@frozen
class ConstantLength:
    """The sum over actions, divided by the number of rollouts and a constant (Dr. GRPO, arXiv
    2503.20783): unbiased by length.

    Attributes:
        length: the constant, such as the most tokens of a completion.
    """

    length: int = field(validator=validators.ge(1))

    def __call__(self, values: Tokens, batch: Experience) -> Float[Tensor, ""]:
        total = (values * batch.weights).sum()
        return total / (max(batch.totals.sequences, 1e-30) * self.length)
