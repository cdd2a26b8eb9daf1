"""Means over problems, with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from attrs import field, frozen

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

DRAWS: Final = 5_000
"""Resamples of a bootstrap."""

_AT_ONCE: Final = 250
"""Resamples that are in memory at a time."""

_FEW: Final = 5
"""With fewer problems' worth of right or of wrong, a bootstrap has seen too little of either."""


@frozen
class Estimate:
    """A mean over problems and its 95% interval.

    Attributes:
        value: the mean.
        low, high: the interval.
        values: of each problem its share, within 0 to 1, in order.
    """

    value: float
    low: float
    high: float
    values: tuple[float, ...] = field(repr=False)


def wilson(successes: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (1927)."""
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    scale = 1 + z * z / trials
    return (centre - spread) / scale, (centre + spread) / scale


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Return the mean of the problems' shares and its interval.

    Where each share is 0 or 1, the interval is Wilson's. Otherwise it is the percentile bootstrap over
    problems (Efron 1979), all samples of a problem together, since they are not independent of one
    another. Where shares are all equal, or add up to fewer than five problems right or wrong, a
    bootstrap is too narrow, down to no width at all; the interval is then Wilson's of one sample a
    problem, which is wider than it need be.

    Args:
        values: one share a problem, within 0 to 1.
        seed: of the bootstrap.

    Raises:
        ValueError: if there are no values.
    """
    if not values:
        raise ValueError("there is nothing to take a mean of: give at least one problem")
    mean = sum(values) / len(values)
    few = len(values) * min(mean, 1 - mean) < _FEW
    if few or set(values) <= {0.0, 1.0} or len(set(values)) == 1:
        low, high = wilson(mean * len(values), len(values))
    else:
        low, high = bootstrap_interval(values, seed)
    return Estimate(mean, low, high, tuple(values))


def bootstrap_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the 2.5% and 97.5% quantiles of the means of :data:`DRAWS` resamples."""
    array: Array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = [
        array[rng.integers(0, len(array), (_AT_ONCE, len(array)))].mean(axis=1)
        for _ in range(DRAWS // _AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
