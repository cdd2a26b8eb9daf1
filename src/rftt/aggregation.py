"""From the scores of a solution's steps to one score of the solution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Aggregation = Callable[[Sequence[float]], float]
"""Makes one score of the scores of steps, in the order of the steps."""


def last(scores: Sequence[float]) -> float:
    """Return the score of the last step.

    For models whose score of a step is of all steps up to it, such as a value.

    Raises:
        ValueError: if there is no score, or one is not finite.
    """
    return _checked(scores)[-1]


def minimum(scores: Sequence[float]) -> float:
    """Return the score of the worst step ("Let's Verify Step by Step", arXiv 2305.20050, appendix F;
    Math-Shepherd, arXiv 2312.08935).

    Raises:
        ValueError: if there is no score, or one is not finite.
    """
    return min(_checked(scores))


def product(scores: Sequence[float]) -> float:
    """Return the product of the scores: the probability that all steps are right, if the steps are
    independent (arXiv 2305.20050, appendix F). More steps make it smaller.

    Raises:
        ValueError: if there is no score, or one is not finite.
    """
    return math.prod(_checked(scores))


def mean(scores: Sequence[float]) -> float:
    """Return the mean of the scores.

    Raises:
        ValueError: if there is no score, or one is not finite.
    """
    return math.fsum(_checked(scores)) / len(scores)


def _checked(scores: Sequence[float]) -> Sequence[float]:
    if not scores:
        raise ValueError(
            "there is no step score to aggregate; a verifier abstains where a solution has no steps"
        )
    for step, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(
                f"step {step} of {len(scores)}: the score {score} is not a finite number; a verifier "
                "abstains where it cannot score a step"
            )
    return scores
