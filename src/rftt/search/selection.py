"""Rules by which a tree search chooses among children: pure functions, passed to a searcher.

They take numbers, give a number, and use nothing but arithmetic and the :mod:`math` module, because the
way down a tree is compiled with them. Of a node's options the one with the largest score is taken, the
first of equals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

SelectionRule = Callable[[float, int, int, float, float], float]
"""``rule(value, visits, parent_visits, prior, exploration)``: the score of one option."""

ValueTransform = Callable[[float, float, float], float]
"""``transform(value, low, high)``: what the rule sees of an option's mean score, the parent's where it
has none; ``low`` and ``high`` are the least and the greatest mean among the parent and its options."""


def uct(value: float, visits: int, parent_visits: int, prior: float, exploration: float) -> float:
    """The upper confidence bound for trees (Kocsis and Szepesvari 2006):
    ``value + exploration * sqrt(ln(parent_visits) / visits)``; infinite where there is no visit, so
    that none is starved. The prior plays no part."""
    if visits == 0:
        return math.inf
    return value + exploration * math.sqrt(math.log(max(1, parent_visits)) / visits)


def puct(value: float, visits: int, parent_visits: int, prior: float, exploration: float) -> float:
    """AlphaZero's rule (Silver et al. 2017, after Rosin 2011):
    ``value + exploration * prior * sqrt(parent_visits) / (1 + visits)``. An option without a visit has
    the largest bonus that its prior allows; 1 stands in for a parent without visits, so that the
    first choice follows the prior."""
    return value + exploration * math.sqrt(max(1, parent_visits)) * prior / (1 + visits)


def as_it_is(value: float, low: float, high: float) -> float:
    """The value unchanged."""
    return value


def between_siblings(value: float, low: float, high: float) -> float:
    """The value moved to [0, 1] by the least and the greatest, so that one exploration constant suits
    rewards of any range; 0 where those are equal."""
    return (value - low) / (high - low) if high > low else 0.0
