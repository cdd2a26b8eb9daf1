"""The abstract learner: from trees to experience, from experience to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from attrs import frozen
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from rftt.learners.experience import Experience
from rftt.search.tree.tree import SearchTree


@frozen(eq=False)
class LossOutput:
    """Scalar loss to minimise, and metrics to log. Both add up over the micro-batches of a batch."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, float]


class Learner(ABC):
    """Improves a policy from search trees."""

    @abstractmethod
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Assign credit to the tokens of the trees, without gradients.

        Raises:
            ValueError: if the trees hold nothing to learn from.
        """

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        """Return the loss of an experience or of a micro-batch of it."""
