"""The abstract learner: from trees to experience, from experience to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from attrs import frozen
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from rftt.learners.experience import Experience
from rftt.search.tree import SearchTree


@frozen(eq=False)
class LossOutput:
    """A scalar to go down on, and figures to log. Parts of one batch add up, loss and metrics alike."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, float]


class Learner(ABC):
    """How trees become a better policy."""

    @abstractmethod
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Credit assignment, without gradients.

        Raises ``ValueError`` if the trees hold nothing to learn from.
        """

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Experience) -> LossOutput:
        """The loss of (a part of) an experience."""
