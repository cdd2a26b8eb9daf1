"""Log-probabilities of a large batch, part by part, without gradients."""

from __future__ import annotations

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rftt.learners.experience import Experience
from rftt.learners.forward.micro_batches import micro_batches
from rftt.learners.forward.score import Packing, score_tokens
from rftt.learners.reference import Reference
from rftt.tokens.automaton import TokenAutomaton


@torch.no_grad()
def log_probs_in_parts(
    model: nn.Module | Reference,
    batch: Experience,
    automaton: TokenAutomaton | None,
    temperature: float = 1.0,
    *,
    max_tokens: int,
    packing: Packing = "tree",
    device: torch.device | None = None,
) -> Float[Tensor, "batch tokens"]:
    """Return the log-probability of each action, 0 elsewhere, where the batch is.

    Args:
        model, automaton, temperature, packing: as in
            :func:`~rftt.learners.forward.score.score_tokens`.
        batch: the sequences.
        max_tokens: tokens in one forward pass.
        device: of the model; default the batch's.

    Raises:
        ValueError: naming the first action whose log-probability is not finite.
    """
    result = torch.zeros_like(batch.log_probs)
    # Each sequence is a unit with its place for a number, so that a part knows where it belongs.
    numbered = attrs.evolve(batch, units=torch.arange(len(batch), device=batch.ids.device))
    for part in micro_batches(numbered, max_tokens, packed=packing != "none"):
        moved = part if device is None else part.to(device)
        scores = score_tokens(model, moved, automaton, temperature, packing=packing)
        result[part.units, : part.ids.shape[1]] = scores.log_probs.to(result.device, result.dtype)
    _check_finite(result, batch)
    return result


def _check_finite(log_probs: Float[Tensor, "batch tokens"], batch: Experience) -> None:
    wrong = (~torch.isfinite(log_probs)).nonzero()
    if len(wrong):
        sequence, place = wrong[0].tolist()
        raise ValueError(
            f"sequence {sequence}: id {int(batch.ids[sequence, place])} at place {place} has a "
            f"log-probability of {float(log_probs[sequence, place])}: the policy's automaton forbids it "
            "there, or the model gives numbers that are not finite"
        )
