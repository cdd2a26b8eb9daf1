"""The distribution that an id is drawn from, and the draw."""

from __future__ import annotations

import math

import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@frozen
class Warp:
    """What is made of a model's logits before an id is drawn; transformers' word for it. Temperature
    comes first; ``top_p`` and ``min_p`` both look at what that gives; what they leave is renormalised.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: of the likeliest ids only the fewest that together reach this probability (nucleus
            sampling, Holtzman et al. 2020); 1 is all.
        min_p: no ids less likely than this times the likeliest (Nguyen et al. 2024); 0 is all.
    """

    temperature: float = field(default=1.0, validator=validators.ge(0))
    top_p: float = field(default=1.0, validator=[validators.gt(0), validators.le(1)])
    min_p: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])

    @property
    def is_whole(self) -> bool:
        """Whether every id that is allowed keeps a probability."""
        return self.temperature > 0 and self.top_p == 1 and self.min_p == 0


def warped(
    logits: Float[Tensor, "rows size"], allowed: Bool[Tensor, "rows size"], warp: Warp
) -> Float[Tensor, "rows size"]:
    """Log-probabilities that an id is drawn; minus infinity where it never is."""
    logits = logits.masked_fill(~allowed, -torch.inf)
    if warp.temperature == 0:
        greedy = torch.full_like(logits, -torch.inf)
        return greedy.scatter(1, logits.argmax(1, keepdim=True), 0.0)
    if warp.temperature != 1:
        logits = logits / warp.temperature
    log_probs = logits.log_softmax(-1)
    if warp.is_whole:
        return log_probs
    probs = log_probs.exp()
    kept = probs >= warp.min_p * probs.amax(1, keepdim=True)
    if warp.top_p < 1:
        falling, order = probs.sort(1, descending=True)
        before = falling.cumsum(1) - falling
        kept &= torch.zeros_like(kept).scatter(1, order, before < warp.top_p)
    return log_probs.masked_fill(~kept, -torch.inf).log_softmax(-1)


def inverse_cumulative(
    log_probs: Float[Tensor, "rows size"], noise: Float[Tensor, " rows"]
) -> Int64[Tensor, " rows"]:
    """The id at which the cumulative distribution passes the noise, a number in [0, 1) for each row. An
    id of probability 0 is never drawn.

    The sum is taken in blocks first, and then within one block: over a whole vocabulary in double
    precision it would take a good part of the time of a small model's forward pass.
    """
    rows, size = log_probs.shape
    width = math.isqrt(size - 1) + 1
    blocks = torch.nn.functional.pad(log_probs.exp(), (0, -size % width)).view(rows, -1, width)
    mass = blocks.sum(2, dtype=torch.float64)
    block, left = _passes(mass, noise.double() * mass.sum(1))
    place, _ = _passes(blocks[torch.arange(rows, device=block.device), block].double(), left)
    return block * width + place


def _passes(
    weights: Float[Tensor, "rows size"], mark: Float[Tensor, " rows"]
) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The first place at which the cumulative weights pass the mark, the last with any weight if
    rounding leaves none; and by how much the mark is past the place before."""
    cumulative = weights.cumsum(1)
    place = torch.searchsorted(cumulative, mark[:, None], right=True)
    columns = torch.arange(weights.shape[1], device=weights.device)
    last = torch.where(weights > 0, columns, -1).amax(1, keepdim=True)
    place = torch.minimum(place, last)
    before = cumulative.gather(1, place) - weights.gather(1, place)
    return place[:, 0], (mark[:, None] - before)[:, 0]
