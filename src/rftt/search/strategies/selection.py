"""Rules by which a tree search chooses among the options of a node: pure functions, passed in.

As in mctx, they take the values of all options at once. The option with the largest score is taken, the
first of equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

SelectionRule = Callable[[Sequence[float], Sequence[int], int, Sequence[float], float], Sequence[float]]
"""``rule(values, visits, parent_visits, priors, exploration)``: one score an option."""

QTransform = Callable[[Sequence[float], float], Sequence[float]]
"""``transform(values, parent_value)``: the values that the rule sees. ``values`` holds the mean scores
of the options; one without a score has the parent's."""


def uct(
    values: Sequence[float],
    visits: Sequence[int],
    parent_visits: int,
    priors: Sequence[float],
    exploration: float,
) -> list[float]:
    """Score options by the upper confidence bound for trees (Kocsis and Szepesvari 2006).

    ``value + exploration * sqrt(ln(parent_visits) / visits)``; infinite without a visit, so that no
    option is starved. The priors are not used.
    """
    log_parent = math.log(max(1, parent_visits))
    return [
        value + exploration * math.sqrt(log_parent / count) if count else math.inf
        for value, count in zip(values, visits, strict=True)
    ]


def puct(
    values: Sequence[float],
    visits: Sequence[int],
    parent_visits: int,
    priors: Sequence[float],
    exploration: float,
) -> list[float]:
    """Score options by AlphaZero's rule (Silver et al. 2017, after Rosin 2011).

    ``value + exploration * prior * sqrt(parent_visits) / (1 + visits)``. A parent without visits counts
    as one with 1, so that the first choice follows the prior.
    """
    scale = exploration * math.sqrt(max(1, parent_visits))
    return [
        value + scale * prior / (1 + count)
        for value, count, prior in zip(values, visits, priors, strict=True)
    ]


def qtransform_identity(values: Sequence[float], parent_value: float) -> Sequence[float]:
    """Leave the values unchanged."""
    return values


def qtransform_by_parent_and_siblings(values: Sequence[float], parent_value: float) -> list[float]:
    """Rescale the values to [0, 1] by the least and the greatest among parent and siblings.

    One exploration constant then suits rewards of any range. All are 0 where these are equal (mctx's
    function of the same name).
    """
    low, high = min(parent_value, *values), max(parent_value, *values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
