"""Whether one strategy is better than another on the same problems."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import comb, sqrt
from typing import Final

import numpy as np
from attrs import frozen

from rftt.evaluation.intervals import bootstrap_interval, wilson

_FLIPS: Final = 10_000
"""Draws of a sign-flip test."""

_AT_ONCE: Final = 500
"""Draws that are in memory at a time."""

_ROUNDING: Final = 1e-9
"""Sums that differ by less are equal."""


@frozen
class Difference:
    """A mean difference between two strategies over the same problems: the second less the first.

    Attributes:
        value: the mean difference, within -1 to 1.
        low, high: its 95% interval.
        p_value: two-sided; of no difference. It is not corrected for other comparisons.
        test: where ``p_value`` is from.
        first_better, second_better: problems on which the one or the other has the larger share.
    """

    value: float
    low: float
    high: float
    p_value: float
    test: str
    first_better: int
    second_better: int


def paired_difference(first: Sequence[float], second: Sequence[float], *, seed: int = 0) -> Difference:
    """Compare two strategies' shares, problem by problem.

    Where each share is 0 or 1, the interval is Newcombe's and the p-value McNemar's. Otherwise the
    interval is the percentile bootstrap over problems, which is too narrow where few of them differ,
    and the p-value is a sign-flip test's, which is right for any number. Differences that are all equal
    leave a bootstrap without a width; their interval reaches as far as Wilson's of no success in so
    many problems.

    Args:
        first, second: one share a problem, within 0 to 1, of the same problems in the same order.
        seed: of bootstrap and sign flips.

    Raises:
        ValueError: if there are no problems, or the two differ in length.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"{len(first)} and {len(second)} shares: give one of each for every problem, in order"
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    first_better = sum(d < -_ROUNDING for d in differences)
    second_better = sum(d > _ROUNDING for d in differences)
    if {*first, *second} <= {0.0, 1.0}:
        both = sum(a == b == 1 for a, b in zip(first, second, strict=True))
        low, high = newcombe(both, second_better, first_better, len(first))
        p_value, test = mcnemar(first_better, second_better), "McNemar, exact"
    else:
        low, high = _interval(differences, mean, seed)
        p_value, test = sign_flip(differences, seed=seed), f"sign flips, {_FLIPS} draws"
    return Difference(mean, low, high, p_value, test, first_better, second_better)


def _interval(differences: Sequence[float], mean: float, seed: int) -> tuple[float, float]:
    if len(set(differences)) > 1:
        return bootstrap_interval(differences, seed)
    _, reach = wilson(0, len(differences))
    return max(-1.0, mean - reach), min(1.0, mean + reach)


def newcombe(both: int, first_only: int, second_only: int, trials: int) -> tuple[float, float]:
    """Return the interval of the first less the second of two proportions of the same problems
    (Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based
    on paired data", method 10).

    Args:
        both: problems that both got right.
        first_only, second_only: problems that only the one or the other got right.
        trials: all problems.
    """
    neither = trials - both - first_only - second_only
    p1, p2 = (both + first_only) / trials, (both + second_only) / trials
    (low1, high1), (low2, high2) = (wilson(both + only, trials) for only in (first_only, second_only))
    agreement: float = both * neither - first_only * second_only
    if agreement > 0:
        agreement = max(agreement - trials / 2, 0)
    product = (both + first_only) * (second_only + neither) * (both + second_only)
    product *= first_only + neither
    phi = agreement / sqrt(product) if product else 0.0

    def reach(a: float, b: float) -> float:
        return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    low, high = p1 - p2 - reach(p1 - low1, high2 - p2), p1 - p2 + reach(high1 - p1, p2 - low2)
    return max(-1.0, low), min(1.0, high)


def mcnemar(first_only: int, second_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test (1947): twice the smaller tail of a binomial
    with probability 1/2, at most 1.

    Args:
        first_only: problems that only the first strategy got right.
        second_only: problems that only the second got right.
    """
    discordant = first_only + second_only
    tail = sum(comb(discordant, count) for count in range(min(first_only, second_only) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**discordant)))


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> float:
    """Return the two-sided p-value of Fisher's randomisation test for pairs (1935), by random draws.

    If the strategies were equal, each problem's difference could as well have the other sign. The
    p-value is the share of draws whose sum is at least as far from 0, the observed signs counted as one
    of them (Phipson and Smyth 2010). For marks it tends to McNemar's.
    """
    sizes = np.asarray(differences, dtype=np.float64)
    observed = abs(float(sizes.sum())) - _ROUNDING
    rng = np.random.default_rng(seed)
    as_far = 0
    for _ in range(_FLIPS // _AT_ONCE):
        signs = rng.integers(0, 2, (_AT_ONCE, len(sizes))) * 2 - 1
        as_far += int((np.abs(signs @ sizes) >= observed).sum())
    return (as_far + 1) / (_FLIPS + 1)
