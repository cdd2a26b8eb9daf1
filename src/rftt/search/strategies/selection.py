"""Rules by which a tree search chooses among the options of a node: pure functions, passed in.

As in mctx, they take the values of all options at once. The option with the largest score is taken, the
first of equals.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Final

SelectionRule = Callable[[Sequence[float], Sequence[int], int, Sequence[float], float], Sequence[float]]
"""``rule(values, visits, parent_visits, priors, exploration)``: one score an option."""

QTransform = Callable[[Sequence[float], float], Sequence[float]]
"""``transform(values, parent_value)``: the values that the rule sees. ``values`` holds the mean scores
of the options; one without a score has the parent's."""

_EPSILON: Final = 1e-8
"""The least range that values are rescaled by, as in mctx."""


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


def mixed_value(
    value: float, priors: Sequence[float], visits: Sequence[int], values: Sequence[float | None]
) -> float:
    """Return the value of an option that was not tried, from those that were.

    It mixes the node's own value and the prior-weighted mean of the tried options:
    ``(v + N * sum(p q) / sum(p)) / (1 + N)`` with ``N`` their visits (Danihelka et al. 2022, equation
    33).

    Args:
        value: the node's own.
        priors: a probability for each option.
        visits: for each option.
        values: the mean score of each option; ``None`` where none was scored.
    """
    tried = [
        # The mean is defined, too, if only options without probability were tried.
        (max(prior, sys.float_info.min), count, q)
        for prior, count, q in zip(priors, visits, values, strict=True)
        if q is not None
    ]
    if not tried:
        return value
    mass, total = sum(p for p, _, _ in tried), sum(count for _, count, _ in tried)
    return (value + total * sum(p / mass * q for p, _, q in tried)) / (1 + total)


def qtransform_completed_by_mix_value(
    value: float,
    priors: Sequence[float],
    visits: Sequence[int],
    values: Sequence[float | None],
    value_scale: float = 0.1,
    maxvisit_init: float = 50.0,
) -> list[float]:
    """Complete the values of all options and scale them to logits (mctx's function of the same name).

    An option without a value gets the :func:`mixed_value`. The completed values are moved to [0, 1] by
    the least and the greatest of them, and multiplied by ``(maxvisit_init + most visits of an option)
    * value_scale``. Where all options have a value, the node's own plays no part.

    Args:
        value, priors, visits, values: as in :func:`mixed_value`.
        value_scale, maxvisit_init: of the scale, ``c_scale`` and ``c_visit`` in equation 8 of
            Danihelka et al. 2022.
    """
    mixed = mixed_value(value, priors, visits, values)
    completed = [mixed if q is None else q for q in values]
    low, high = min(completed), max(completed)
    scale = (maxvisit_init + max(visits)) * value_scale
    return [scale * (q - low) / max(high - low, _EPSILON) for q in completed]
