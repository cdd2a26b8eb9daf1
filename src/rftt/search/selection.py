"""Rules by which a tree search chooses among children: pure functions, passed to a searcher.

A rule sees all options of a node at once: their values, visits and prior probabilities in one order,
and returns a score for each; the largest is taken, the first of equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

SelectionRule = Callable[[Sequence[float], Sequence[int], int, Sequence[float], float], list[float]]
"""``rule(values, visits, parent_visits, priors, exploration)``: one score an option."""

ValueTransform = Callable[[float, Sequence[float | None]], list[float]]
"""``transform(parent_value, values)``: a number for each option, for those without a value too."""


def uct(
    values: Sequence[float],
    visits: Sequence[int],
    parent_visits: int,
    priors: Sequence[float],
    exploration: float,
) -> list[float]:
    """The upper confidence bound for trees (Kocsis and Szepesvari 2006):
    ``value + exploration * sqrt(ln(parent_visits) / visits)``; infinite where there is no visit, so
    that none is starved. Priors play no part."""
    log = math.log(parent_visits) if parent_visits > 1 else 0.0
    return [
        value + exploration * math.sqrt(log / n) if n else math.inf
        for value, n in zip(values, visits, strict=True)
    ]


def puct(
    values: Sequence[float],
    visits: Sequence[int],
    parent_visits: int,
    priors: Sequence[float],
    exploration: float,
) -> list[float]:
    """AlphaZero's rule (Silver et al. 2017, after Rosin 2011):
    ``value + exploration * prior * sqrt(parent_visits) / (1 + visits)``. An option without a visit has
    the largest bonus that its prior allows; 1 stands in for a parent without visits, so that the
    first choice follows the prior."""
    scale = exploration * math.sqrt(max(1, parent_visits))
    return [
        value + scale * prior / (1 + n) for value, n, prior in zip(values, visits, priors, strict=True)
    ]


def as_they_are(parent_value: float, values: Sequence[float | None]) -> list[float]:
    """Values unchanged; the parent's where there is none."""
    return [parent_value if value is None else value for value in values]


def between_siblings(parent_value: float, values: Sequence[float | None]) -> list[float]:
    """Values moved to [0, 1] by the least and the greatest among parent and options, so that one
    exploration constant suits rewards of any range; 0 for all where those are equal."""
    known = as_they_are(parent_value, values)
    low, high = min(parent_value, *known), max(parent_value, *known)
    span = high - low
    return [(value - low) / span if span else 0.0 for value in known]
