"""What k of n independent samples would have given, averaged over all choices of k.

Each function takes what is known of the n samples of one problem and returns the probability that k of
them, drawn without replacement, give a right answer. That is an unbiased estimate of what k fresh
samples would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import groupby
from math import comb, exp, lgamma, log
from typing import Any, TypeAlias

import numpy as np

_Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


def pass_at_k(n: int, right: int, k: int) -> float:
    """Return the probability that at least one of k samples is right: 1 - C(n - right, k) / C(n, k)
    (Chen et al. 2021, equation 1), computed in integers.

    Args:
        n: samples.
        right: those of them that are right.
        k: samples that are drawn.

    Raises:
        ValueError: if k is not within 1 to n, or ``right`` not within 0 to n.
    """
    _check_k(n, k)
    if not 0 <= right <= n:
        raise ValueError(f"{right} right samples of {n}: give a number from 0 to {n}")
    return float(1 - Fraction(comb(n - right, k), comb(n, k)))


def best_at_k(samples: Sequence[tuple[float | None, bool]], k: int) -> float:
    """Return the probability that the sample with the largest score among k is right.

    Samples with equal scores are chosen with equal probability. Computed in integers.

    Args:
        samples: of each its score, and whether it is right. ``None`` is a sample that is never chosen,
            because it has no answer; of k such samples none is right.
        k: samples that are drawn.

    Raises:
        ValueError: if k is not within 1 to the number of samples.
    """
    _check_k(len(samples), k)
    scored = sorted((score, right) for score, right in samples if score is not None)
    below = len(samples) - len(scored)
    total = Fraction(0)
    for _, equals in groupby(scored, key=lambda sample: sample[0]):
        marks = [right for _, right in equals]
        # The best of k is among these equals if all of k are, or are below, and not all are below.
        ways = comb(below + len(marks), k) - comb(below, k)
        total += Fraction(ways * sum(marks), len(marks))
        below += len(marks)
    return float(total / comb(len(samples), k))


def majority_at_k(groups: Sequence[tuple[int, float]], silent: int, k: int) -> float:
    """Return the probability that the vote of k samples is right.

    Groups with equally many votes win with equal probability, as they do where the first one found
    wins and the samples come in random order. Exact to 12 digits: the number of draws with each
    count of votes is summed up group by group, as probabilities of independent binomials that are
    conditioned on their sum.

    Args:
        groups: of each group of equivalent answers its number of samples, and the share of them that
            is right.
        silent: samples without an answer. They do not vote; of k such samples none is right.
        k: samples that are drawn.

    Raises:
        ValueError: if k is not within 1 to the number of samples.
    """
    n = silent + sum(size for size, _ in groups)
    _check_k(n, k)
    # Any rate gives the same figures; with this one k is the likeliest sum, so nothing underflows.
    rate = k / n
    silence = _binomial(silent, rate, k)
    total = 0.0
    for votes in range(1, min(k, max((size for size, _ in groups), default=0)) + 1):
        tied = _tied_and_right(groups, votes, rate, k)
        for number in range(1, len(tied)):
            total += float(tied[number] @ silence[::-1]) / number
    # So that certain votes give 0 and 1, as marks do.
    return min(1.0, round(total / float(_binomial(n, rate, k)[k]), 12))


def _tied_and_right(
    groups: Sequence[tuple[int, float]], votes: int, rate: float, k: int
) -> list[_Array]:
    """Return, by the number of groups that tie with so many votes and by the votes of all groups, the
    probability times the sum of the tied groups' shares, where no group has more votes."""
    most = min(len(groups), k // votes)
    probability = np.zeros((most + 1, k + 1))
    right = np.zeros((most + 1, k + 1))
    probability[0, 0] = 1.0
    for size, share in groups:
        chances = _binomial(size, rate, votes)
        new_probability, new_right = np.zeros_like(probability), np.zeros_like(right)
        for count, chance in enumerate(chances[:votes]):
            new_probability[:, count:] += chance * probability[:, : k + 1 - count]
            new_right[:, count:] += chance * right[:, : k + 1 - count]
        top, kept = chances[votes], k + 1 - votes
        new_probability[1:, votes:] += top * probability[:-1, :kept]
        new_right[1:, votes:] += top * (right[:-1, :kept] + share * probability[:-1, :kept])
        probability, right = new_probability, new_right
    return list(right)


def _binomial(size: int, rate: float, most: int) -> _Array:
    """Return the probabilities of 0 to ``most`` successes in ``size`` trials."""
    chances = np.zeros(most + 1)
    if rate == 1.0:
        if size <= most:
            chances[size] = 1.0
        return chances
    for count in range(min(size, most) + 1):
        ways = lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)
        chances[count] = exp(ways + count * log(rate) + (size - count) * log(1 - rate))
    return chances


def _check_k(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}, and there are {n} samples: choose k from 1 to {n}")
