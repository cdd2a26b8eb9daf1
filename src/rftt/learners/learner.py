"""The abstract learner: from trees to experience, from experience to a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from attrs import frozen
from jaxtyping import Float
from torch import Tensor, nn

from rftt.interfaces import State
from rftt.learners.experience import Experience
from rftt.samplers.sampling import SamplingParams
from rftt.search.tree.tree import SearchTree
from rftt.tokens.automaton import TokenAutomaton


@runtime_checkable
class TokenPolicy(Protocol):
    """What a learner must know of the policy that sampled: how a path is laid out in ids, and the
    distribution that the ids were drawn from.

    :class:`~rftt.policies.functional.FunctionalPolicy` is one.
    """

    @property
    def automaton(self) -> TokenAutomaton | None:
        """The masks that ids were drawn under; ``None`` where every id was allowed."""

    @property
    def sampling_params(self) -> SamplingParams:
        """Temperature and truncation of the draws."""

    def context(self, state: State) -> tuple[int, ...]:
        """Return the ids that the next step of a state follows: the question's, then each step's."""


@frozen(eq=False)
class LossOutput:
    """Scalar loss to minimise, and metrics to log. Both add up over the micro-batches of a batch, on all
    processes."""

    loss: Float[Tensor, ""]
    metrics: Mapping[str, float]


class Learner(ABC):
    """Improves a policy from search trees.

    One update goes ``experience`` (credit), ``prepare`` (what needs the model), then ``epochs`` times
    over ``minibatches`` parts of it: ``loss`` of each micro-batch, one optimizer step a part; then
    ``after_update``. Under several processes all of them call ``experience`` and ``prepare``, also one
    whose trees hold nothing to learn: sums over the batch are taken over all of them.

    Attributes:
        epochs: how often an experience is learned from.
        minibatches: optimizer steps in each epoch.
        dropout: whether dropout is on while it learns. Where a ratio to the policy that sampled must
            begin at 1, it is off.
    """

    epochs: int = 1
    minibatches: int = 1
    dropout: bool = False

    @abstractmethod
    def experience(self, trees: Sequence[SearchTree]) -> Experience:
        """Assign credit to the tokens of the trees, without gradients. It is empty if the trees hold
        nothing to learn from."""

    def prepare(self, model: nn.Module, experience: Experience) -> Experience:
        """Return the experience with what the model that is being tuned must add, such as a critic's
        values. This default adds nothing."""
        return experience

    @abstractmethod
    def loss(self, model: nn.Module, batch: Experience) -> LossOutput:
        """Return the loss of an experience or of a micro-batch of it.

        Args:
            model: a causal language model, with an adapter or without.
            batch: on the model's device; its totals are those of the full batch.
        """

    def stops_early(self, metrics: Mapping[str, float]) -> bool:
        """Return whether the remaining minibatches and epochs of this update are to be skipped, given
        the metrics of a minibatch, before its step is taken."""
        return False

    def after_update(self, metrics: Mapping[str, float]) -> None:
        """Take note of an update's metrics, as an adaptive coefficient does: the means of what
        :meth:`loss` gave, and ``rollouts``, their number on all processes."""
        return

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Modules that the learner owns, such as a critic, by name: they are trained, saved and restored
        with the model."""
        return {}

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Learning rates of its modules, where they differ from the model's."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what must be restored besides modules: numbers, texts, lists and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        return
