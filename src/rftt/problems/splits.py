"""Splits that depend on nothing but a problem's own question."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence

from rftt.problems.problem import Problem

_log = logging.getLogger(__name__)


def split_problems(
    problems: Sequence[Problem], fractions: Mapping[str, float], *, seed: int = 0
) -> dict[str, list[Problem]]:
    """Divide problems by a hash of each one's question.

    Where a problem goes depends on its question, the fractions and the seed alone: not on its id, the
    order, or what else is there. So a set that grows keeps its split, and questions that are equal up to
    case and white space are never on two sides. The sizes are the fractions' only on average.

    Args:
        problems: what is divided; the order is kept.
        fractions: each part's share by its name: ``{"train": 0.8, "test": 0.2}``. They add up to 1.
        seed: another seed makes another split.

    Raises:
        ValueError: if a fraction is not above 0, or they do not add up to 1.
    """
    if not all(fraction > 0 for fraction in fractions.values()):
        raise ValueError(f"each part of a split needs a fraction above 0, not {dict(fractions)}")
    if not math.isclose(sum(fractions.values()), 1.0):
        raise ValueError(
            f"the fractions {dict(fractions)} add up to {sum(fractions.values())}, not to 1"
        )
    parts: dict[str, list[Problem]] = {name: [] for name in fractions}
    for problem in problems:
        parts[_part(problem.question, fractions, seed)].append(problem)
    for name, part in parts.items():
        if not part:
            _log.warning("split of %d problems: none is in %r", len(problems), name)
    return parts


def hold_out_every(problems: Sequence[Problem], n: int = 5) -> tuple[list[Problem], list[Problem]]:
    """Divide problems by their places, as the benchmarks do: ``index % n == 0`` is held out.

    Returns:
        The problems to train on, and those held out.

    Raises:
        ValueError: if ``n`` is less than 2.
    """
    if n < 2:
        raise ValueError(f"n must be 2 or more, not {n}: nothing would be left to train on")
    return [problem for i, problem in enumerate(problems) if i % n], list(problems[::n])


def _part(question: str, fractions: Mapping[str, float], seed: int) -> str:
    text = " ".join(question.casefold().split())
    digest = hashlib.sha256(f"{seed}/{text}".encode()).digest()
    place, below = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for name, fraction in fractions.items():
        below += fraction
        if place < below:
            return name
    # The sum may be a rounding error below 1.
    return name
