"""The distribution that an id is drawn from, and the draw."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

_AT_ONCE: Final = 1 << 19
"""Numbers, at most, that are computed at a time."""


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


def probabilities(
    logits: Float[Tensor, "rows size"],
    allowed: Bool[Tensor, "rows size"] | None,
    warp: Warp,
    out: Float[Tensor, "rows size"] | None = None,
) -> Float[Tensor, "rows size"]:
    """The probabilities that ids are drawn with, in ``out`` if it is given; without ``allowed``, all
    ids are."""
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if warp.temperature == 0:
        kept = torch.zeros_like(logits, dtype=torch.bool)
        return _of_kept(logits, kept.scatter_(1, logits.argmax(1, keepdim=True), True), out)
    if warp.temperature != 1:
        logits = logits / warp.temperature
    if warp.is_whole:
        return torch.softmax(logits, -1, out=out)
    probs = logits.softmax(-1)
    kept = probs >= warp.min_p * probs.amax(1, keepdim=True)
    if warp.top_p < 1:
        falling, order = probs.sort(1, descending=True)
        before = falling.cumsum(1) - falling
        kept &= torch.zeros_like(kept).scatter(1, order, before < warp.top_p)
    return _of_kept(logits, kept, out)


def _of_kept(
    logits: Float[Tensor, "rows size"],
    kept: Bool[Tensor, "rows size"],
    out: Float[Tensor, "rows size"] | None,
) -> Float[Tensor, "rows size"]:
    return torch.softmax(logits.masked_fill(~kept, -torch.inf), -1, out=out)


def log_probabilities(
    logits: Float[Tensor, "rows size"], allowed: Bool[Tensor, "rows size"]
) -> Float[Tensor, "rows size"]:
    """The logarithms of what ``Warp()`` makes of logits; minus infinity where an id is not allowed."""
    return logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1)


def draw(
    logits: Float[Tensor, "rows size"],
    allowed: Bool[Tensor, "rows size"] | None,
    warp: Warp,
    noise: Float[Tensor, " draws"],
    rows: Int64[Tensor, " draws"],
    out: Float[Tensor, "rows size"] | None = None,
) -> tuple[Int64[Tensor, " draws"], Float[Tensor, " draws"]]:
    """Ids from these rows, and the log-probability that each was drawn with.
    Arguments as in :func:`probabilities` and :func:`inverse_cumulative`; all samplers of this process
    draw so."""
    probs = torch.empty_like(logits, dtype=torch.float32) if out is None else out
    # Where nothing else is computed, nothing else takes memory.
    parts = [slice(None)] if allowed is None and warp == Warp() else _few(*logits.shape)
    for some in parts:
        probabilities(logits[some], None if allowed is None else allowed[some], warp, probs[some])
    ids = inverse_cumulative(probs, rows, noise)
    return ids, probs[rows, ids].log()


def inverse_cumulative(
    probs: Float[Tensor, "rows size"], rows: Int64[Tensor, " draws"], noise: Float[Tensor, " draws"]
) -> Int64[Tensor, " draws"]:
    """For each draw, the id at which the cumulative distribution of its row passes its noise, a number
    in [0, 1). An id of probability 0 is never drawn.

    The sum is taken in blocks first, and then within one block: over a whole vocabulary in double
    precision it would take a good part of the time of a small model's forward pass.
    """
    size = probs.shape[1]
    width = _block_width(size)
    if missing := -size % width:  # padding by nothing copies too
        probs = torch.nn.functional.pad(probs, (0, missing))
    blocks = probs.view(len(probs), -1, width)
    mass = _masses(blocks)
    cumulative = mass.cumsum(1)[rows]
    mark = noise.double()[:, None] * cumulative[:, -1:]
    block = _passes(cumulative, mark)
    before = cumulative.gather(1, block) - mass[rows[:, None], block]
    within = blocks[rows, block[:, 0]]
    place = _passes(within.double().cumsum(1), mark - before)
    return (block * width + place)[:, 0]


def _masses(blocks: Float[Tensor, "rows blocks width"]) -> Float64[Tensor, "rows blocks"]:
    rows, count, width = blocks.shape
    masses = torch.empty(rows, count, dtype=torch.float64, device=blocks.device)
    parts = _few(rows, count * width)
    wide = torch.empty_like(blocks[parts[0]], dtype=torch.float64)
    for some in parts:
        part = blocks[some]
        torch.sum(wide[: len(part)].copy_(part), 2, out=masses[some])
    return masses


def _few(rows: int, size: int) -> list[slice]:
    """A few rows at a time. What is computed of a large vocabulary takes fresh memory, and to get that
    from the system, for a whole batch, takes longer than to compute it."""
    step = max(1, _AT_ONCE // size)
    return [slice(start, start + step) for start in range(0, rows or 1, step)]


@lru_cache
def _block_width(size: int) -> int:
    """About the square root; a divisor, if there is one near, spares the copy that padding makes."""
    root = math.isqrt(size - 1) + 1
    return next((width for width in range(root, 2 * root) if size % width == 0), root)


def _passes(
    cumulative: Float[Tensor, "rows size"], mark: Float[Tensor, "rows 1"]
) -> Int64[Tensor, "rows 1"]:
    """The first place at which cumulative weights are more than the mark; there the weight is not 0.
    Rounding may have carried the mark out of their range by a little."""
    mark = mark.clamp(min=0).minimum(cumulative[:, -1:] * (1 - 2**-52))
    return torch.searchsorted(cumulative, mark, right=True)
