"""The distribution that ids are drawn from, and drawing by inverse transform sampling."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import torch
from attrs import field, frozen, validators
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

_CHUNK: Final = 1 << 19
"""Most logits that are computed at a time."""


class NonFiniteError(ValueError):
    """Logits from which nothing can be drawn: NaN or plus infinity, or none that is allowed and finite.

    Attributes:
        draws: the numbers of the draws at fault.
    """

    def __init__(self, draws: list[int]) -> None:
        super().__init__(f"the logits of draws {draws[:5]} are not finite")
        self.draws = draws


@frozen
class SamplingParams:
    """What is made of a model's logits before an id is drawn.

    Temperature comes first; ``top_p`` and ``min_p`` both look at what that gives; what they leave is
    renormalised.

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
    def has_full_support(self) -> bool:
        """Return whether every id that is allowed keeps a probability."""
        return self.temperature > 0 and self.top_p == 1 and self.min_p == 0


_SOFTMAX: Final = SamplingParams()
"""Nothing is made of logits but a softmax."""


def probabilities(
    logits: Float[Tensor, "rows size"],
    allowed: Bool[Tensor, "rows size"] | None,
    params: SamplingParams,
    out: Float[Tensor, "rows size"] | None = None,
) -> Float[Tensor, "rows size"]:
    """Return the probabilities that ids are drawn with.

    Args:
        logits: what a model gave.
        allowed: which ids may be drawn; ``None`` for all.
        params: temperature and truncation.
        out: where to put the probabilities; contiguous, and may be the logits.
    """
    logits = logits.float()
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    if params.temperature == 0:
        kept = torch.zeros_like(logits, dtype=torch.bool)
        return _of_kept(logits, kept.scatter_(1, logits.argmax(1, keepdim=True), True), out)
    if params.temperature != 1:
        logits = logits / params.temperature
    if params.has_full_support:
        return torch.softmax(logits, -1, out=out)
    probs = logits.softmax(-1)
    kept = probs >= params.min_p * probs.amax(1, keepdim=True)
    if params.top_p < 1:
        falling, order = probs.sort(1, descending=True)
        before = falling.cumsum(1) - falling
        kept &= torch.zeros_like(kept).scatter(1, order, before < params.top_p)
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
    """Return log-probabilities at temperature 1; minus infinity where an id is not allowed."""
    return logits.float().masked_fill(~allowed, -torch.inf).log_softmax(-1)


def draw(
    logits: Float[Tensor, "rows size"],
    allowed: Bool[Tensor, "rows size"] | None,
    params: SamplingParams,
    noise: Float[Tensor, " drawn"],
    rows: Int64[Tensor, " drawn"],
) -> tuple[Int64[Tensor, " drawn"], Float[Tensor, " drawn"]]:
    """Draw ids, and return them with the log-probability of each.

    Arguments as in :func:`probabilities` and :func:`inverse_cumulative`, but that logits in single
    precision may be overwritten.

    Raises:
        NonFiniteError: if the logits of a draw's row are not finite where ids are allowed.
    """
    # To get fresh memory from the system takes about as long as a draw. Where torch's softmax writes
    # must be contiguous (pytorch issue 75923).
    probs = logits.float().contiguous()
    # Where nothing else is computed, nothing else takes memory.
    parts = [slice(None)] if allowed is None and params == _SOFTMAX else _chunks(*probs.shape)
    for some in parts:
        probabilities(probs[some], None if allowed is None else allowed[some], params, probs[some])
    ids = inverse_cumulative(probs, rows, noise)
    return ids, probs[rows, ids].log()


def inverse_cumulative(
    probs: Float[Tensor, "rows size"], rows: Int64[Tensor, " drawn"], noise: Float[Tensor, " drawn"]
) -> Int64[Tensor, " drawn"]:
    """Return, for each draw, the id at which the cumulative distribution of its row passes its noise.

    An id of probability 0 is never drawn. The sum is taken over blocks first, and then within one block.
    Sums of blocks in single precision decide most draws: those where a little less noise falls on the
    same id as a little more. The rest is summed in double precision, which over all of a vocabulary
    takes several times as long.

    Args:
        probs: probabilities of ids.
        rows: the row of each draw.
        noise: for each draw, a number in [0, 1).

    Raises:
        NonFiniteError: if the probabilities of a draw's row are NaN.
    """
    size = probs.shape[1]
    width = _block_width(size)
    if missing := -size % width:  # padding by nothing copies too
        probs = torch.nn.functional.pad(probs, (0, missing))
    blocks = probs.view(len(probs), -1, width)
    noise = noise.double()[:, None]
    # A sum of so many terms in single precision, in whatever order, is off by less than half of this
    # share of it (Higham 2002, section 4.2); so are the sum up to an id and that of all.
    slack = width * 2.0**-23
    mass = blocks.sum(2).double()
    # A search in weights of which one is NaN ends outside of them.
    if (nan := mass.isnan().any(1)[rows]).any():
        raise NonFiniteError(nan.nonzero()[:, 0].tolist())
    marks = torch.cat([noise * (1 - slack), noise * (1 + slack)], 1)
    ids, above = _find(blocks, mass, rows, marks).unbind(1)
    unsure = (ids != above).nonzero()[:, 0]
    if len(unsure):
        again = rows[unsure]
        mass[again] = blocks[again].sum(2, dtype=torch.float64)
        ids[unsure] = _find(blocks, mass, again, noise[unsure])[:, 0]
    return ids


def _find(
    blocks: Float[Tensor, "rows blocks width"],
    mass: Float64[Tensor, "rows blocks"],
    rows: Int64[Tensor, " drawn"],
    noise: Float64[Tensor, "drawn marks"],
) -> Int64[Tensor, "drawn marks"]:
    """Return the ids at which the cumulative distribution of a draw's row passes each of its marks, if
    blocks have this mass."""
    mass = mass[rows]
    cumulative = mass.cumsum(1)
    mark = noise * cumulative[:, -1:]
    block = _passes(cumulative, mark)
    left = mark - cumulative.gather(1, block) + mass.gather(1, block)
    within = blocks[rows[:, None], block].double().cumsum(2)
    return block * blocks.shape[2] + _passes(within, left[:, :, None])[:, :, 0]


def _chunks(rows: int, size: int) -> list[slice]:
    """Split rows into chunks: for a batch with a large vocabulary, to get the memory for intermediate
    results from the system takes longer than to compute them."""
    step = max(1, _CHUNK // size)
    return [slice(start, start + step) for start in range(0, rows or 1, step)]


@lru_cache
def _block_width(size: int) -> int:
    """Return about the square root; a divisor near it, if there is one, spares the copy for padding."""
    root = math.isqrt(size - 1) + 1
    return next((width for width in range(root, 2 * root) if size % width == 0), root)


def _passes(
    cumulative: Float64[Tensor, "*rows size"], mark: Float64[Tensor, "*rows marks"]
) -> Int64[Tensor, "*rows marks"]:
    """Return the first place at which cumulative weights are more than the mark; its weight is not 0.
    Rounding may have carried the mark out of their range by a little."""
    mark = mark.clamp(min=0).minimum(cumulative[..., -1:] * (1 - 2**-52))
    return torch.searchsorted(cumulative, mark, right=True)
