"""Experience: a padded batch of rollouts as token sequences, with what is learned from each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@frozen
class BatchTotals:
    """Sums over the full batch of all processes: what a loss is divided by.

    A micro-batch keeps the totals of the batch that it is a part of, so that losses add up.

    Attributes:
        actions: the weights of all actions.
        functional_actions: the weights of those actions that are functional tokens.
        sequences: the weights of all sequences, each that of its heaviest action: the number of
            rollouts, where each rollout counts.
    """

    actions: float
    functional_actions: float
    sequences: float


@frozen(eq=False)
class Experience:
    """A right-padded batch of sequences, each a question and the steps of a rollout.

    Attributes:
        ids: token ids.
        attention_mask: which places hold a token; the rest is padding.
        action_mask: which tokens to learn from. The log-probability at place ``t`` is that of id ``t``
            given the ids before it; place 0 is never an action.
        functional_mask: which actions are functional tokens; the others are text.
        states: the automaton's state in which each id was drawn; its end state where it has none.
        log_probs: natural log-probabilities under the policy that sampled; 0 where not an action.
        reference_log_probs: the same under the frozen reference; 0 where not an action.
        advantages: how much better each action was than expected; 0 where not an action.
        weights: how often each action counts in the loss; 0 where not an action.
        counts: the number of rollouts that each sequence stands for.
        units: sequences of one unit stay in one micro-batch.
        values: a critic's old value of the state before each action; 0 without a critic.
        returns: what a critic learns to predict there.
        totals: of the full batch, of which this may be a micro-batch.
    """

    ids: Int64[Tensor, "batch tokens"]
    attention_mask: Bool[Tensor, "batch tokens"]
    action_mask: Bool[Tensor, "batch tokens"]
    functional_mask: Bool[Tensor, "batch tokens"]
    states: Int64[Tensor, "batch tokens"]
    log_probs: Float[Tensor, "batch tokens"]
    reference_log_probs: Float[Tensor, "batch tokens"]
    advantages: Float[Tensor, "batch tokens"]
    weights: Float[Tensor, "batch tokens"]
    counts: Float[Tensor, " batch"]
    units: Int64[Tensor, " batch"]
    values: Float[Tensor, "batch tokens"]
    returns: Float[Tensor, "batch tokens"]
    totals: BatchTotals

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, sequences: Int64[Tensor, " selected"]) -> Experience:
        """Return some of the sequences, without the columns in which all of them are padding."""
        width = int(self.attention_mask[sequences].sum(1).max()) if len(sequences) else 0
        selected = {
            name: tensor[sequences] if tensor.dim() == 1 else tensor[sequences, :width]
            for name, tensor in self._tensors().items()
        }
        return attrs.evolve(self, **selected)

    def to(self, device: torch.device) -> Experience:
        """Return the batch on a device."""
        return attrs.evolve(self, **{n: t.to(device) for n, t in self._tensors().items()})

    def with_totals(self) -> Experience:
        """Return the batch with the totals of what it holds: it is the full batch of one process."""
        functional = self.weights * self.functional_mask
        sequences = self.weights.amax(1).sum() if self.weights.numel() else torch.zeros(())
        totals = BatchTotals(float(self.weights.sum()), float(functional.sum()), float(sequences))
        return attrs.evolve(self, totals=totals)

    def _tensors(self) -> dict[str, Any]:
        return {
            f.name: value
            for f in attrs.fields(Experience)
            if isinstance(value := getattr(self, f.name), Tensor)
        }


@frozen
class TokenSequence:
    """One sequence before padding.

    Attributes:
        ids: token ids.
        action_mask: for each id, whether to learn from it.
        log_probs: for each id, its log-probability when it was sampled; ``None`` if it was not.
        advantages: for each id, its advantage; ``None`` for 1 at every action.
        weights: for each id, how often it counts; ``None`` for ``count`` at every action.
        count: the number of rollouts that the sequence stands for.
    """

    ids: Sequence[int]
    action_mask: Sequence[bool]
    log_probs: Sequence[float] | None = None
    advantages: Sequence[float] | None = None
    weights: Sequence[float] | None = None
    count: float = 1.0


def pad_sequences(sequences: Sequence[TokenSequence]) -> Experience:
    """Pad sequences to one width. What no sequence says is 0; each sequence is a unit of its own.

    Without a sequence, as on a process whose trees hold nothing to learn, the batch is empty.

    Raises:
        ValueError: if the first id of a sequence is an action: nothing stands before it.
    """
    for number, sequence in enumerate(sequences):
        if sequence.action_mask[:1] == [True] or sequence.action_mask[:1] == (True,):
            raise ValueError(
                f"sequence {number}: its first id is an action, but nothing stands before it"
            )
    shape = (len(sequences), max((len(sequence.ids) for sequence in sequences), default=0))

    def padded(column: str, dtype: torch.dtype) -> Tensor:
        result = torch.zeros(shape, dtype=dtype)
        for i, sequence in enumerate(sequences):
            if (values := getattr(sequence, column)) is not None:
                result[i, : len(sequence.ids)] = torch.tensor(values, dtype=dtype)
        return result

    action_mask = padded("action_mask", torch.bool)
    counts = torch.tensor([sequence.count for sequence in sequences], dtype=torch.float32)
    attention_mask = torch.zeros(shape, dtype=torch.bool)
    advantages, weights = padded("advantages", torch.float32), padded("weights", torch.float32)
    for i, sequence in enumerate(sequences):
        attention_mask[i, : len(sequence.ids)] = True
        if sequence.advantages is None:
            advantages[i] = 1.0
        if sequence.weights is None:
            weights[i] = sequence.count
    zeros = torch.zeros(shape)
    return Experience(
        ids=padded("ids", torch.int64),
        attention_mask=attention_mask,
        action_mask=action_mask,
        functional_mask=torch.zeros(shape, dtype=torch.bool),
        states=torch.zeros(shape, dtype=torch.int64),
        log_probs=padded("log_probs", torch.float32) * action_mask,
        reference_log_probs=zeros,
        advantages=advantages * action_mask,
        weights=weights * action_mask,
        counts=counts,
        units=torch.arange(len(sequences)),
        values=zeros,
        returns=zeros,
        totals=BatchTotals(0.0, 0.0, 0.0),
    ).with_totals()
