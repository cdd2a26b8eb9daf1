"""Critics: what estimates the value of the state before each action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rftt.learners.experience import Experience
from rftt.learners.forward.attention import packing_obstacle, say_once, tree_mask
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.forward.packing import pack_prefixes
from rftt.learners.forward.score import Packing, score_tokens
from rftt.samplers.model_state import evaluating
from rftt.verifiers.value import ValueHead, ValueModel

_MAX_ROW_TOKENS: Final = 1024
"""Most places of a packed row, as :func:`~rftt.learners.forward.score.score_tokens` has it."""


class Critic(nn.Module, ABC):
    """Estimates the value of the state before each action.

    Attributes:
        uses_hidden: whether it reads the hidden states of the model that is being tuned.
    """

    uses_hidden: bool = False

    @abstractmethod
    def forward(
        self, experience: Experience, hidden: Float[Tensor, "batch tokens size"] | None
    ) -> Float[Tensor, "batch tokens"]:
        """Return the value of the state before each action, 0 elsewhere, in float32.

        Args:
            experience: the sequences.
            hidden: if it ``uses_hidden``, the tuned model's last hidden state before each action, as
                :func:`rftt.learners.forward.score.score_tokens` gives it; else ``None``.
        """


class HeadCritic(Critic):
    """A value head on the policy's body: it costs no forward pass of its own.

    Args:
        size: of the hidden states: ``model.config.hidden_size``.
        detach: whether the body is spared the critic's gradients. Without it the body learns from
            both losses, and ``value_coef`` weighs them.
    """

    uses_hidden = True

    def __init__(self, size: int, *, detach: bool = False) -> None:
        super().__init__()
        self.head = ValueHead(size)
        self.detach = detach

    def forward(
        self, experience: Experience, hidden: Float[Tensor, "batch tokens size"] | None
    ) -> Float[Tensor, "batch tokens"]:
        if hidden is None:
            raise ValueError("a value head on the policy's body needs its hidden states: hidden is None")
        values: Tensor = self.head(hidden.detach() if self.detach else hidden)
        return torch.where(experience.action_mask, values, 0.0)


class ModelCritic(Critic):
    """A model of its own, which shares nothing with the policy.

    Args:
        model: gives the values.
        packing: as in :func:`value_outputs`.
    """

    def __init__(self, model: ValueModel, *, packing: Packing = "tree") -> None:
        super().__init__()
        self.model = model
        self.packing: Packing = packing

    def forward(
        self, experience: Experience, hidden: Float[Tensor, "batch tokens size"] | None = None
    ) -> Float[Tensor, "batch tokens"]:
        after = self.model.from_outputs(value_outputs(self.model, experience, self.packing))
        # The value after an id is that of the state before the next.
        before = torch.nn.functional.pad(after[:, :-1], (1, 0))
        return torch.where(experience.action_mask, before, 0.0)


def value_outputs(
    model: ValueModel, experience: Experience, packing: Packing = "tree"
) -> Float[Tensor, "batch tokens"]:
    """Return at each place the output of a value model's head after its id; at padding, any number.

    Args:
        model: the value model.
        experience: the sequences.
        packing: ``"none"`` computes each sequence by itself, anything else a prefix that sequences share
            once, if the body can do that.
    """
    ids, attention_mask = experience.ids, experience.attention_mask
    if packing != "none" and len(experience):
        longest = int(attention_mask.sum(1).max())
        if obstacle := packing_obstacle(model.body, longest):
            say_once(model.body, obstacle)
            packing = "none"
    if packing == "none" or not len(experience):
        return model.outputs(ids, attention_mask)
    packed = pack_prefixes(ids, attention_mask, experience.states, max_row_tokens=_MAX_ROW_TOKENS)
    mask = tree_mask(packed.subtree_end, model.body)
    outputs = model.outputs(packed.ids, mask, packed.position_ids)
    return outputs.flatten()[packed.places]


@torch.no_grad()
def values_in_parts(
    critic: Critic,
    model: Any,
    batch: Experience,
    *,
    max_tokens: int,
    packing: Packing = "tree",
) -> Float[Tensor, "batch tokens"]:
    """Return the critic's value of the state before each action, 0 elsewhere, where the batch is.

    Args:
        critic: what is asked, in evaluation mode here.
        model: the tuned model, for a critic that reads its hidden states.
        batch: the sequences.
        packing: as in :func:`~rftt.learners.forward.score.score_tokens`.
        max_tokens: tokens in one forward pass.
    """
    result = torch.zeros_like(batch.returns)
    device = next(critic.parameters()).device
    # Each sequence is a unit with its place for a number, so that a part knows where it belongs.
    numbered = attrs.evolve(batch, units=torch.arange(len(batch), device=batch.ids.device))
    with evaluating(critic):
        for part in micro_batches(numbered, max_tokens, packed=packing != "none"):
            moved, hidden = part.to(device), None
            if critic.uses_hidden:
                hidden = score_tokens(model, moved, None, hidden=True, packing=packing).hidden
            values = critic(moved, hidden)
            result[part.units, : part.ids.shape[1]] = values.to(result.device, result.dtype)
    return result


def clipped_value_loss(
    values: Float[Tensor, "batch tokens"],
    old_values: Float[Tensor, "batch tokens"],
    returns: Float[Tensor, "batch tokens"],
    clip: float | None,
) -> tuple[Float[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Return half the squared error of each value, and where the clip takes its gradient away.

    ``max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2) / 2``, as in TRL, OpenRLHF and
    cleanrl, after "Implementation matters in deep policy gradients" (arXiv 2005.12729, section 3):
    a value that has moved by more than ``clip`` towards its return moves no further.

    Args:
        values: of the critic that learns.
        old_values: of the critic at the start of the update.
        returns: what it learns.
        clip: ``None`` for no bound.
    """
    error = (values - returns).square()
    if clip is None:
        return error / 2, torch.zeros_like(error, dtype=torch.bool)
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    bounded_error = (bounded - returns).square()
    return torch.maximum(error, bounded_error) / 2, bounded_error > error
