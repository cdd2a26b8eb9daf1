"""Random numbers by counter: each is a function of (seed, position), not of what came before.

So a request's draws do not depend on which others share its batch, or on the order of the work.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def uniform(
    seeds: Int64[Tensor, " rows"], positions: Int64[Tensor, " rows"]
) -> Float64[Tensor, " rows"]:
    """Uniform numbers in [0, 1): SplitMix64's output function (Steele, Lea and Flood 2014) of
    ``seed + (position + 1) * golden ratio``, its upper 53 bits. Products wrap at 64 bits."""
    x = seeds + (positions + 1) * _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    x = x ^ _shift_right(x, 31)
    return _shift_right(x, 11).to(torch.float64) * 2.0**-53


def _shift_right(x: Int64[Tensor, " rows"], bits: int) -> Int64[Tensor, " rows"]:
    """Logical shift: torch's ``>>`` on signed numbers carries the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
