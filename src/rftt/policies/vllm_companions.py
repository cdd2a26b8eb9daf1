"""Requests that share a row of a vLLM engine: how the processor, which draws for them inside the engine,
tells the stream outside which of them draw other ids than the row.

A request can have companions, which differ from it in their seeds alone. As long as they draw the same
ids they need no rows of their own. All that comes out of the engine with an id are log-probabilities; so
where companions draw another id than their request, the processor leaves there
``-(APART + sum of 2 ** number)``, over the numbers of those who do, counted from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

APART: Final = 128
"""More than a log-probability in single precision can be below 0: the id drawn stays the likeliest."""

TOGETHER: Final = 24
"""Most requests in one row: so large a sum is exact in single precision."""


def mark(
    logits: Float[Tensor, "rows size"],
    rows: Int64[Tensor, " apart"],
    ids: Int64[Tensor, " apart"],
    numbers: Int64[Tensor, " apart"],
) -> None:
    """Write down the ids that companions draw apart from their rows, instead of logits."""
    logits[rows, ids] = -float(APART)
    powers = (2.0**numbers).to(logits.dtype)
    logits.index_put_((rows, ids), -powers, accumulate=True)


def apart(reported: Iterable[tuple[int, float]]) -> Mapping[int, list[int]]:
    """For each id that companions drew apart, their numbers; from what vLLM reports of a position."""
    sums = {token: int(-value) - APART for token, value in reported if -torch.inf < value <= -APART}
    return {
        token: [number for number in range(TOGETHER - 1) if total >> number & 1]
        for token, total in sums.items()
    }
