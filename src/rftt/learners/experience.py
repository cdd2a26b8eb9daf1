"""Experience: a padded batch of token sequences with log-probabilities and advantages."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from attrs import frozen
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_log = logging.getLogger(__name__)


@frozen(eq=False)
class Experience:
    """A right-padded batch of sequences, each a question and the steps that follow it.

    Attributes:
        ids: token ids.
        attention_mask: which places hold a token; the rest is padding.
        action_mask: which tokens to learn from. The log-probability at place ``t`` is that of id ``t``
            given the ids before it; place 0 is never an action.
        states: the automaton's state in which each id was drawn; its end state where it has none.
        log_probs: natural log-probabilities under the policy that sampled; 0 where not an action.
        reference_log_probs: the same under the frozen reference.
        advantages: how much better each action was than expected; 1 for supervised learning.
        action_count: number of actions in the full batch, of which this may be a micro-batch.
    """

    ids: Int64[Tensor, "batch tokens"]
    attention_mask: Bool[Tensor, "batch tokens"]
    action_mask: Bool[Tensor, "batch tokens"]
    states: Int64[Tensor, "batch tokens"]
    log_probs: Float[Tensor, "batch tokens"]
    reference_log_probs: Float[Tensor, "batch tokens"]
    advantages: Float[Tensor, "batch tokens"]
    action_count: int

    def __len__(self) -> int:
        return self.ids.shape[0]

    def select(self, sequences: Int64[Tensor, " selected"]) -> Experience:
        """Return some of the sequences, without the columns in which all of them are padding."""
        width = int(self.attention_mask[sequences].sum(1).max()) if len(sequences) else 0
        return attrs.evolve(self, **{n: t[sequences, :width] for n, t in self._tensors().items()})

    def micro_batches(self, max_tokens: int) -> Iterator[Experience]:
        """Split the batch into micro-batches of sequences of like length.

        Sequences without an action teach nothing: they are left out, and counted in the log.

        Args:
            max_tokens: most places, padding included, in a micro-batch; one sequence may have more.
        """
        lengths = self.attention_mask.sum(1)
        order = [i for i in lengths.argsort().tolist() if bool(self.action_mask[i].any())]
        if left_out := len(self) - len(order):
            _log.info("left out %d of %d sequences: they have no action", left_out, len(self))
        selected: list[int] = []
        for i in order:
            if selected and (len(selected) + 1) * int(lengths[i]) > max_tokens:
                yield self.select(torch.tensor(selected))
                selected = []
            selected.append(i)
        if selected:
            yield self.select(torch.tensor(selected))

    def to(self, device: torch.device) -> Experience:
        """Return the batch on a device."""
        return attrs.evolve(self, **{n: t.to(device) for n, t in self._tensors().items()})

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
    """

    ids: Sequence[int]
    action_mask: Sequence[bool]
    log_probs: Sequence[float] | None = None


def pad_sequences(sequences: Sequence[TokenSequence]) -> Experience:
    """Pad sequences to one width. Advantages of actions are 1, states and reference log-probs 0.

    Raises:
        ValueError: if there is no sequence, or the first id of one is an action.
    """
    if not sequences:
        raise ValueError("no sequences: there is nothing to learn from")
    for number, sequence in enumerate(sequences):
        if sequence.action_mask[0]:
            raise ValueError(
                f"sequence {number}: its first id is an action, but nothing stands before it"
            )
    shape = (len(sequences), max(len(sequence.ids) for sequence in sequences))
    ids = torch.zeros(shape, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.bool)
    action_mask = torch.zeros(shape, dtype=torch.bool)
    log_probs = torch.zeros(shape)
    for i, sequence in enumerate(sequences):
        n = len(sequence.ids)
        ids[i, :n] = torch.tensor(sequence.ids)
        attention_mask[i, :n] = True
        action_mask[i, :n] = torch.tensor(sequence.action_mask)
        if sequence.log_probs is not None:
            log_probs[i, :n] = torch.tensor(sequence.log_probs)
    return Experience(
        ids=ids,
        attention_mask=attention_mask,
        action_mask=action_mask,
        states=torch.zeros_like(ids),
        log_probs=torch.where(action_mask, log_probs, 0.0),
        reference_log_probs=torch.zeros(shape),
        advantages=action_mask.float(),
        action_count=int(action_mask.sum()),
    )
