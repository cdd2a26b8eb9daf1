"""Counter-based random numbers: each is a function of (seed, position), not of what came before.

So what is drawn for a request does not depend on which others share its batch, or on the order of work.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float64, Int64

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


def uniform(
    seeds: Int64[np.ndarray, " rows"], positions: Int64[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """Return uniform numbers in [0, 1): the upper 53 bits of SplitMix64's output (Steele, Lea and Flood
    2014) for ``seed + (position + 1) * golden ratio``. Products wrap at 64 bits."""
    x = seeds.astype(np.uint64) + (positions + 1).astype(np.uint64) * _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    x ^= x >> np.uint64(31)
    noise: Float64[np.ndarray, " rows"] = (x >> np.uint64(11)) * 2.0**-53
    return noise
